"""Every way in which an engine that has loaded can fail, on the real daemon with real processes.

Each fault has a pool of its own where it costs an engine its life. What is seen of it: the client's
stream, /health meanwhile, the incident, the replica that comes back, and that nothing is left.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.e2e.pool_plan import NEED_MIB, STALL_S, PoolPlan
from tests.e2e.ward import Ward, open_ward
from tests.fakes.engines import list_session
from tests.fakes.nvml import MIB, build_nvml, uuid_of


@dataclass(frozen=True)
class Death:
    """A fault that an engine does not survive."""

    pool_id: str
    prompt: str
    number: signal.Signals | None = None
    """Sent to the engine once the task has a token."""
    code: str = "WORKER_RESET"
    """The task's end; empty where it ends well."""
    tokens: int | None = None
    """How many it has; None where that is up to chance."""
    words: str = "hung up before the end of its answer"
    """What its client is told."""
    cause: str = ""
    """What everybody else is."""
    exit_code: int | None = None
    by: str | None = None
    """The signal that ended the engine."""
    last_line: str = ""
    faults: dict[str, object] = field(default_factory=dict)
    keys: str = ""


IMPATIENT = f"decode_stall_s = {STALL_S}"
DEATHS = [
    Death("crash", "[tokens 9] [crash 2]", tokens=2, cause="was ended by SIGKILL", by="SIGKILL"),
    Death(
        *("crash-unseen", "[tokens 3] [crash 0] [once crash]"),
        code="",
        tokens=3,
        cause="was ended by SIGKILL",
        by="SIGKILL",
    ),
    Death(
        *("exit", "[tokens 9] [exit 2]"),
        tokens=2,
        cause="exited with code 1: error: asked to exit",
        exit_code=1,
        last_line="error: asked to exit",
    ),
    Death(
        *("abort", "[tokens 1000] [every 0.02]", signal.SIGUSR1),
        cause="was ended by SIGABRT: GGML_ASSERT(false) failed: error: asked to abort",
        by="SIGABRT",
        last_line="GGML_ASSERT(false) failed: error: asked to abort",
    ),
    Death(
        *("deaf", "[tokens 1000] [every 0.02]", signal.SIGUSR2),
        code="DECODE_TIMEOUT",
        words="made no progress for 2 s",
        cause="has not answered since a task made no progress for 2 s",
        by="SIGKILL",
        keys=IMPATIENT,
    ),
    Death(
        *("orphans", "[tokens 9] [crash 2]"),
        tokens=2,
        cause="was ended by SIGKILL",
        by="SIGKILL",
        faults={"grandchild": 1, "stray": 1},
    ),
]
POOLS = [
    *(PoolPlan(death.pool_id, death.faults, death.keys, n) for n, death in enumerate(DEATHS)),
    PoolPlan("tired", card=len(DEATHS)),
    PoolPlan("garbage"),
    PoolPlan("hangs", keys=IMPATIENT),
]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    library = build_nvml(tmp_path_factory.mktemp("nvml"))
    with open_ward(tmp_path_factory.mktemp("ward"), POOLS, library) as ward:
        for pool in POOLS:
            ward.wait_until_ready(pool.pool_id)
        ward.note_descriptors()
        yield ward


# -- engines that die --------------------------------------------------------------------------


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: str(death.pool_id))
def test_a_death_costs_what_it_must_and_is_told_and_mended(ward: Ward, death: Death) -> None:
    pool_id = death.pool_id
    before = ward.wait_until_ready(pool_id)
    session = list_session(before["pid"])
    assert len(session) == 1 + len(death.faults)
    with ward.keep_from_loading(pool_id):
        task_id = ward.submit(pool_id, death.prompt)
        if death.number is not None:
            wait_for_token(ward, task_id)
            os.kill(before["pid"], death.number)
        # The wait for the next try shows the cause, and so does that try.
        replica = ward.wait_for(
            pool_id, lambda r: r["state"] in ("backoff", "placing", "loading") and bool(r["reason"])
        )
        assert death.cause in replica["reason"]
        ward.wait_for(pool_id, lambda r: r["state"] == "loading")
        check_health_under_fault(ward, pool_id, death.cause)
        assert list_session(before["pid"]) == []
        check_incident(ward, death, before, task_id)

    story = ward.read(task_id)
    assert story.last.get("code", "") == death.code
    assert death.code == "" or death.words in story.last["message"], story.last
    assert death.tokens in (None, story.tokens)
    after = ward.wait_until_ready(pool_id)
    assert (after["restarts"], after["reason"]) == (before["restarts"] + 1, None)
    assert after["pid"] != before["pid"]
    ward.check_gone(before["pid"])
    ward.check_well(pool_id)


def wait_for_token(ward: Ward, task_id: str) -> None:
    with ward.stream(task_id) as stream:
        for line in stream:
            if line.startswith(b"event: token"):
                return
    raise AssertionError("it ended without a token")


def check_health_under_fault(ward: Ward, pool_id: str, cause: str) -> None:
    """While the pool's only replica is loaded again."""
    assert ward.health()["status"] == "degraded"
    with ward.ask("POST", "/v1/tasks", {"pool_id": pool_id, "prompt": "hello"}) as refused:
        assert refused.status == 503
        assert cause in refused.read().decode()
    assert ward.reserved_bytes(pool_id) == NEED_MIB * MIB


def check_incident(ward: Ward, death: Death, before: dict[str, Any], task_id: str) -> None:
    ward.wait_for_incidents(death.pool_id, 1)
    incident = ward.pool(death.pool_id)["incidents"][-1]
    at = datetime.fromisoformat(incident.pop("at"))
    assert at.utcoffset() == UTC.utcoffset(None)
    assert death.cause in incident.pop("cause")
    assert death.last_line in "\n".join(incident.pop("last_lines"))
    assert incident.pop("ready_s") > 0
    assert incident.pop("memory_before_bytes") >= incident["memory_after_bytes"]
    place = [pool.pool_id for pool in POOLS].index(death.pool_id)
    assert incident == {
        "replica_id": before["replica_id"],
        "device": uuid_of(place),
        "pid": before["pid"],
        "exit_code": death.exit_code,
        "signal": death.by,
        "tasks": [task_id],
        "memory_after_bytes": 0,
    }
    lost = ward.daemon.hear(f"lost an engine pool={death.pool_id}")
    assert before["replica_id"] in lost


def test_an_engine_that_breaks_task_after_task_is_started_afresh(ward: Ward) -> None:
    before = ward.wait_until_ready("tired")
    for _ in range(3):
        story = ward.run("tired", "[spoil end] [after 1]")
        assert (story.last["code"], story.tokens) == ("WORKER_RESET", 1)
    after = ward.wait_until_ready("tired", before["restarts"] + 1)
    assert after["pid"] != before["pid"]
    (incident,) = ward.wait_for_incidents("tired", 1)
    assert "broke tasks 3 times in a row, the last: ended its stream without" in incident["cause"]
    assert incident["signal"] == "SIGKILL"
    ward.check_gone(before["pid"])
    ward.check_well("tired")


# -- engines that talk nonsense, and live ------------------------------------------------------


@dataclass(frozen=True)
class Nonsense:
    """A fault that costs the task, and not the engine."""

    prompt: str
    code: str
    words: str = ""
    tokens: int = 0


NO_JSON, NO_EVENT = "sent what is not JSON", "sent an event that is no completion"
NONSENSE = [
    Nonsense("[garbage text]", "WORKER_RESET", "does not answer in HTTP"),
    Nonsense("[garbage binary]", "WORKER_RESET", "does not answer in HTTP"),
    Nonsense("[garbage head]", "WORKER_RESET", "hung up before the end of its answer"),
    Nonsense("[garbage nothing]", "WORKER_RESET", "hung up before the end of its answer"),
    Nonsense("[garbage text] [once text] [tokens 3]", "", tokens=3),
    Nonsense("[spoil words] [after 2]", "WORKER_RESET", NO_JSON, 2),
    Nonsense("[spoil cut] [after 2]", "WORKER_RESET", NO_JSON, 2),
    Nonsense("[spoil number] [after 2]", "WORKER_RESET", NO_EVENT, 2),
    Nonsense("[spoil stop] [after 2]", "WORKER_RESET", NO_EVENT, 2),
    Nonsense("[spoil list] [after 2]", "WORKER_RESET", NO_EVENT, 2),
    Nonsense("[spoil null] [after 2]", "WORKER_RESET", NO_EVENT, 2),
    Nonsense("[spoil deep] [after 2]", "WORKER_RESET", NO_JSON, 2),
    Nonsense("[spoil unicode] [after 2]", "WORKER_RESET", NO_JSON, 2),
    Nonsense("[spoil surrogate] [after 2]", "WORKER_RESET", NO_JSON, 2),
    Nonsense("[spoil infinite] [after 2]", "WORKER_RESET", NO_JSON, 2),
    Nonsense("[spoil endless] [after 2]", "WORKER_RESET", "sent an event of more than", 2),
    Nonsense("[spoil error] [after 2]", "WORKER_RESET", "Context size has been exceeded.", 2),
    Nonsense("[spoil end] [after 2]", "WORKER_RESET", "without its last event", 2),
    Nonsense("[spoil close] [after 2]", "WORKER_RESET", "hung up before the end", 2),
    Nonsense("[spoil size] [after 2]", "WORKER_RESET", "does not answer in HTTP", 2),
    Nonsense("[spoil end] [once end]", "", tokens=8),
    Nonsense("[spoil large] [after 2]", "", tokens=3),
    Nonsense("[spoil huge] [after 2]", "", tokens=2),
    Nonsense("[status 500]", "WORKER_RESET", "HTTP 500: asked to refuse"),
    Nonsense("[status 503]", "WORKER_RESET", "HTTP 503: asked to refuse"),
    Nonsense("[status 500] [once s500] [tokens 3]", "", tokens=3),
    Nonsense("[status 503] [once s503] [tokens 3]", "", tokens=3),
    Nonsense("[status 401]", "WORKER_RESET", "does not take our key (HTTP 401)"),
    Nonsense("[status 429]", "POOL_UNAVAILABLE", "asked to refuse"),
    Nonsense("[status 404]", "INVALID_PARAMS", "asked to refuse"),
    Nonsense("[refuse]", "INVALID_PARAMS", "request exceeds the available context size"),
]


HANGS = [
    Nonsense("[hang 2]", "DECODE_TIMEOUT", "made no progress for 2 s", 2),
    Nonsense("[spoil chunk] [after 2]", "DECODE_TIMEOUT", "made no progress for 2 s", 2),
    Nonsense("[spoil event] [after 2]", "DECODE_TIMEOUT", "made no progress for 2 s", 2),
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda nonsense: str(nonsense.prompt))
def test_nonsense_costs_its_task_and_nobody_else(ward: Ward, nonsense: Nonsense) -> None:
    check_nonsense(ward, "garbage", nonsense)


@pytest.mark.parametrize("hang", HANGS, ids=lambda hang: str(hang.prompt))
def test_a_hang_of_one_task_costs_that_alone(ward: Ward, hang: Nonsense) -> None:
    check_nonsense(ward, "hangs", hang)


def check_nonsense(ward: Ward, pool_id: str, nonsense: Nonsense) -> None:
    before = ward.wait_until_ready(pool_id)
    story = ward.run(pool_id, nonsense.prompt)
    assert story.last.get("code", "") == nonsense.code, story.last
    assert nonsense.words in story.last.get("message", "")
    assert story.tokens == nonsense.tokens
    if nonsense.code == "":
        assert story.last["finish_reason"] == "stop"
    ward.check_well(pool_id)
    pool = ward.pool(pool_id)
    assert pool["incidents"] == []
    assert pool["replicas"] == [before], "it lives, and serves as before"


def test_garbage_of_the_largest_kind_reaches_the_client_whole(ward: Ward) -> None:
    story = ward.run("garbage", "[spoil large] [after 1]")
    assert story.text == "t0 " + "x" * (2 * MIB)


def test_counts_that_no_engine_can_mean_are_not_believed(ward: Ward) -> None:
    story = ward.run("garbage", "[spoil huge] [after 1]")
    # The events that came are counted instead.
    assert (story.last["tokens_in"], story.last["tokens_out"]) == (0, 1)


def test_a_chat_that_breaks_off_is_told_like_any_other(ward: Ward) -> None:
    messages = [{"role": "user", "content": "[spoil words] [after 2]"}]
    with ward.ask("POST", "/v1/tasks", {"pool_id": "garbage", "messages": messages}) as answer:
        task_id = json.load(answer)["task_id"]
    story = ward.read(task_id)
    assert (story.last["code"], story.tokens) == ("WORKER_RESET", 2)
    assert NO_JSON in story.last["message"]
    ward.check_well("garbage")

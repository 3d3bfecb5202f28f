"""Two hundred clients at once: every admitted task ends once, in order, and the counts add up."""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contracts.seen import see_httpx_async
from tests.e2e.crowd import FAITHFUL, Visitor, invite, meet
from tests.e2e.daemon import SLOTS, TOKEN, Daemon, running_daemon
from tests.fakes import daemon as fake
from tests.fakes.journal import read_journal

CLIENTS = 200
TIMEOUT_S = 240.0
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
LIMITS = httpx.Limits(max_connections=2 * CLIENTS, max_keepalive_connections=50)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await scenario

    asyncio.run(bounded())


def connect(url: str, token: str) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"}
    hooks = {"response": [see_httpx_async]}
    return httpx.AsyncClient(
        base_url=url, headers=headers, limits=LIMITS, timeout=TIMEOUT_S, event_hooks=hooks
    )


async def wait_for_quiet(client: httpx.AsyncClient) -> None:
    """Nothing waits and no slot is busy."""
    while True:
        (pool,) = (await client.get("/health")).json()["pools"]
        busy = sum(replica["slots_busy"] for replica in pool["replicas"])
        if not busy and not any(pool["queue"].values()):
            return
        await asyncio.sleep(0.05)


def check_counts(visitors: list[Visitor]) -> collections.Counter[str]:
    admitted = [visitor for visitor in visitors if visitor.task_id]
    ends = collections.Counter(visitor.names[-1] for visitor in admitted)
    assert ends.total() == len(admitted) and set(ends) <= {"end", "error"}
    for visitor in admitted:
        if visitor.habit in FAITHFUL or (
            visitor.priority == "batch" and not visitor.habit.startswith("cancels")
        ):
            assert visitor.names[-1] == "end", (visitor.habit, visitor.last)
    return ends


@pytest.fixture
def patient_daemon(tmp_path: Path, demo_model: Path, engine_path: str) -> Iterator[Daemon]:
    """One that leaves a slow client the time to open its stream."""
    with running_daemon(tmp_path, demo_model, engine_path, abandon_after_s=30) as daemon:
        yield daemon


def test_a_crowd_on_the_real_engine(patient_daemon: Daemon) -> None:
    async def scenario() -> None:
        visitors = invite(seed=1, count=CLIENTS)
        async with connect(patient_daemon.url, TOKEN) as client:
            await meet(client, visitors, lambda v: {"prompt": f"Say {v.number}:"})
            await wait_for_quiet(client)
        ends = check_counts(visitors)
        assert ends["end"] > CLIENTS / 4 and ends["error"] > 0
        patient_daemon.wait_for_idle_engine()

    run(scenario())


def test_a_crowd_is_served_in_order(tmp_path: Path) -> None:
    """The engine keeps a journal, and makes no token before all have come."""
    gate, journal = tmp_path / "gate", tmp_path / "journal"
    config = fake.write_config(
        tmp_path,
        pool="[pools.queue]\ninteractive = 60\nbatch = 70",
        held_until=gate,
        journal=journal,
    )
    config.write_text(config.read_text().replace("slots = 1", f"slots = {SLOTS}"))

    async def open_gate() -> None:
        gate.touch()

    with fake.run_daemon(config) as daemon:

        async def scenario() -> None:
            daemon.hear("became ready")
            async with connect(f"http://127.0.0.1:{daemon.port}", fake.TOKEN) as client:
                visitors = invite(seed=2, count=CLIENTS)
                visitors[1].habit = "cancels at once"
                await meet(client, visitors, describe, open_gate)
                await wait_for_quiet(client)
            check_counts(visitors)
            lines = [entry.text for entry in read_journal(journal)]
            check_order(visitors, [line for line in lines if "visitor" in line])

        run(scenario())


def describe(visitor: Visitor) -> dict[str, Any]:
    return {"prompt": f"visitor {visitor.number} [tokens {visitor.max_tokens}] [held]"}


def check_order(visitors: list[Visitor], lines: list[str]) -> None:
    """Who came to the engine when, and what it said to whom."""
    refused = collections.Counter(v.priority for v in visitors if not v.task_id)
    assert refused["interactive"] > 0 and refused["batch"] > 0, "the bounds were never met"
    begun = [int(line.split()[2]) for line in lines if line.startswith("begin")]
    ended = {int(line.split()[2]): int(line.split()[-1]) for line in lines if line[:3] == "end"}
    assert len(set(begun)) == len(begun), "a task was begun twice"
    hasty = {v.number for v in visitors if v.habit == "cancels at once"}
    assert hasty & set(begun[:SLOTS]) and not hasty & ended.keys(), "nobody wanted these any more"
    served = {v.number: v for v in visitors if v.names[-1:] == ["end"]}
    assert served.keys() <= ended.keys() <= set(begun)
    assert all(v.last["tokens_out"] == ended[number] for number, v in served.items())
    started = {v.number for v in visitors if "started" in v.names}
    assert started <= set(begun)
    # The first few had free slots; all others waited together for the gate.
    first, rest = begun[:SLOTS], begun[SLOTS:]
    assert sorted(first) == list(range(SLOTS))
    waited = [v for v in visitors if v.number in rest]
    in_turn = sorted(waited, key=lambda v: (v.priority == "batch", v.number))
    coming = [visitor.number for visitor in in_turn]
    for number in rest:
        # Whoever was passed has a slot and is on the way to the engine; the others have the rest.
        assert coming.index(number) < SLOTS, (number, coming[:SLOTS])
        coming.remove(number)

"""A daemon that ends in the middle of reloads, one at each step, and the one that follows it."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from orchd.runner.reload_status import Step
from tests.e2e.pool_plan import PoolPlan
from tests.e2e.reloads import (
    Answer,
    reload,
    reloading,
    tell,
    wait_for_engine,
    wait_for_step,
    wait_for_token,
    write_heavy,
    write_light,
)
from tests.e2e.story import read_story
from tests.e2e.ward import Ward, open_ward
from tests.fakes.daemon import TIMEOUT_S, run_daemon
from tests.fakes.engines import list_children, list_session
from tests.fakes.gate import Gate, gate_in
from tests.fakes.nvml import build_nvml

PLANS = [
    PoolPlan("loading", card=0),
    PoolPlan("finishing", card=1),
    PoolPlan("replacing", card=2),
    PoolPlan("retiring", card=3),
    PoolPlan("switched", card=4),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


class Halfway:
    """Reloads of all these pools, each at the step that it is named for."""

    def __init__(self, ward: Ward, folder: Path, stack: contextlib.ExitStack) -> None:
        self.ward = ward
        self.gate: Gate = stack.enter_context(gate_in(ward.holds))
        self.old = ward.replica("loading")["model"]
        self.new: dict[str, Path] = {}
        self.answers: dict[str, Future[Answer]] = {}
        self.running: dict[str, str] = {}
        """Tasks that have a token each, by pool."""
        self.waiting: dict[str, str] = {}
        for pool_id in ("finishing", "retiring", "loading"):
            self.running[pool_id] = ward.submit(pool_id, f"[tokens 3] [signed] {self.gate.wish}")
            wait_for_token(ward, self.running[pool_id])
        for pool_id in ("loading", "replacing"):
            stack.enter_context(ward.keep_from_loading(pool_id))
        for pool_id in ("loading", "finishing", "replacing", "retiring"):
            write = write_heavy if pool_id in ("finishing", "replacing") else write_light
            self.new[pool_id] = write(folder, pool_id)
            self.answers[pool_id] = stack.enter_context(reloading(ward, pool_id, self.new[pool_id]))
        wait_for_step(ward, "finishing", Step.FINISHING)
        wait_for_step(ward, "retiring", Step.RETIRING)
        for pool_id, step in (("loading", Step.LOADING), ("replacing", Step.REPLACING)):
            wait_for_engine(ward, pool_id, self.new[pool_id])
            wait_for_step(ward, pool_id, step)
        for pool_id in ("finishing", "replacing", "loading"):
            self.waiting[pool_id] = ward.submit(pool_id, "[tokens 3] [signed]")


@pytest.fixture
def halfway(library: Path, tmp_path: Path) -> Iterator[Halfway]:
    with open_ward(tmp_path / "ward", PLANS, library, ends_well=False) as ward:
        for plan in PLANS:
            ward.wait_until_ready(plan.pool_id)
        with contextlib.ExitStack() as stack:
            yield Halfway(ward, tmp_path, stack)


def test_sigterm_at_every_step(halfway: Halfway, library: Path, tmp_path: Path) -> None:
    ward = halfway.ward
    old, new = halfway.old, write_light(tmp_path, "switched")
    assert reload(ward, "switched", new).status == 200
    others = list_children(ward.daemon.process.pid)
    with contextlib.ExitStack() as stack:
        # Before their time: no connection is taken any more later.
        streams = {
            task_id: stack.enter_context(ward.stream(task_id))
            for task_id in (*halfway.running.values(), *halfway.waiting.values())
        }
        ward.daemon.signal(signal.SIGTERM)
        ward.daemon.hear("stopping: running tasks have")
        stopped = {pool_id: answer.result() for pool_id, answer in halfway.answers.items()}
        halfway.gate.let_through(9)
        stories = {task_id: read_story(stream) for task_id, stream in streams.items()}
    assert ward.daemon.wait() == 0

    for pool_id in ("loading", "finishing", "replacing"):
        told = stopped[pool_id]
        assert (told.status, told.body["code"]) == (503, "RELOAD_FAILED")
        assert "the daemon is stopping" in told.message
    # What has been switched is switched.
    told = stopped["retiring"]
    assert (told.status, told.body["model_ref"]) == (200, str(halfway.new["retiring"]))
    for task_id in halfway.running.values():
        assert (stories[task_id].names[-1], stories[task_id].text) == ("end", tell(old))
    for task_id in halfway.waiting.values():
        assert stories[task_id].last["code"] == "POOL_UNAVAILABLE"

    sessions = [*ward.sessions(), *others]
    assert [pid for session in sessions for pid in list_session(session)] == []
    assert "Traceback" not in ward.daemon.log
    assert "never retrieved" not in ward.daemon.log
    words = f"a reload does not outlive the daemon: its next start serves {old} pool=switched"
    assert words in ward.daemon.log
    check_next_start(ward, library)


def check_next_start(ward: Ward, library: Path) -> None:
    """It serves what it is configured to."""
    assert ward.nvml is not None
    for plan in PLANS:
        ward.let_load(plan.pool_id)
    with run_daemon(ward.daemon.config, **ward.nvml.environment(library)) as daemon:
        after = Ward(daemon, ward.holds, PLANS, ward.nvml)
        for plan in PLANS:
            after.wait_until_ready(plan.pool_id)
            pool = after.pool(plan.pool_id)
            assert (Path(pool["model"]).stem, pool["retired"]) == ("model", [])
            assert after.run(plan.pool_id, "[tokens 3] [signed]").text == tell("model")


def test_sigkill_at_every_step_leaves_no_engine(halfway: Halfway) -> None:
    ward = halfway.ward
    sessions = ward.sessions()
    # Of each pool but the one that waits for its tasks and the one that was left alone, both
    # generations, or, in place, the new one.
    assert len([pid for pid in sessions if list_session(pid)]) == 7
    ward.daemon.signal(signal.SIGKILL)
    assert ward.daemon.wait() == -signal.SIGKILL
    deadline_s = time.monotonic() + TIMEOUT_S
    while left := [pid for session in sessions for pid in list_session(session)]:
        assert time.monotonic() < deadline_s, f"{left} outlived the daemon"
        time.sleep(0.02)
    for answer in halfway.answers.values():
        with pytest.raises(ConnectionError):
            answer.result()

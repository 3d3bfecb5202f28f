"""The timer of a running task, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from orchd.serving.progress import Progress, Reading
from orchd.serving.stall_watch import StallWatch, run_until_stall
from orchd.serving.task import Stalled
from tests.conftest import Drive
from tests.fakes.loop import ClockedLoop, FakeLoop

STALL_S = 60.0


class Stage:
    """A watch that was just set."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.progress = Progress(self.loop.now_s, Reading())
        self.stalls = 0
        self.watch = StallWatch(
            cast(asyncio.AbstractEventLoop, self.loop), self.progress, STALL_S, self._on_stall
        )

    def _on_stall(self) -> None:
        self.stalls += 1


def test_a_task_without_progress_stalls_once() -> None:
    stage = Stage()
    stage.loop.pass_time(STALL_S - 1)
    assert stage.stalls == 0
    stage.loop.pass_time(2)
    assert stage.stalls == 1
    stage.loop.pass_time(10 * STALL_S)
    assert stage.stalls == 1 and stage.loop.pending == []


def test_progress_sets_no_timer() -> None:
    stage = Stage()
    for _ in range(1000):
        stage.loop.pass_time(1)
        stage.progress.token_s = stage.loop.time()
    assert stage.stalls == 0
    assert stage.loop.made <= 1 + 1000 / (STALL_S - 1)
    stage.loop.pass_time(STALL_S + 1)
    assert stage.stalls == 1


def test_what_was_said_while_the_loop_was_held_up_is_heard_first() -> None:
    stage = Stage()
    stage.loop.now_s += 10 * STALL_S
    stage.loop.pass_time(0)
    assert stage.stalls == 0
    stage.progress.token_s = stage.loop.time()
    stage.loop.pass_time(STALL_S - 1)
    assert stage.stalls == 0
    stage.loop.pass_time(2)
    assert stage.stalls == 1


@pytest.mark.parametrize("after_s", [0.0, STALL_S])
def test_a_watch_that_is_stopped_is_silent(after_s: float) -> None:
    stage = Stage()
    stage.loop.pass_time(after_s)
    stage.watch.stop()
    stage.loop.pass_time(10 * STALL_S)
    assert stage.stalls == 0 and stage.loop.pending == []


def clock() -> ClockedLoop:
    return ClockedLoop(asyncio.get_running_loop())


def start(loop: ClockedLoop, work: Any) -> asyncio.Future[Any]:
    progress = Progress(loop.time(), Reading())
    return asyncio.ensure_future(
        run_until_stall(cast(asyncio.AbstractEventLoop, loop), work, progress, STALL_S)
    )


def test_work_that_stalls_is_cancelled_and_its_cleaning_up_is_waited_for(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        loop, ends = clock(), []

        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0)
                ends.append("cleaned up")

        running = start(loop, work())
        await asyncio.sleep(0)
        loop.pass_time(STALL_S + 1)
        assert await running == Stalled(STALL_S)
        assert ends == ["cleaned up"] and loop.pending == []

    drive(scenario())


@pytest.mark.parametrize("is_stalled", [False, True])
def test_who_cancels_it_gets_no_stall(drive: Drive[Any], is_stalled: bool) -> None:
    async def scenario() -> None:
        loop = clock()
        running = start(loop, asyncio.Event().wait())
        await asyncio.sleep(0)
        if is_stalled:
            loop.pass_time(STALL_S + 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert loop.pending == []

    drive(scenario())


@pytest.mark.parametrize("error", [None, ValueError("a bug"), TimeoutError("its own")])
def test_work_that_ends_leaves_no_timer(drive: Drive[Any], error: Exception | None) -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        if error is not None:
            raise error
        return "done"

    async def scenario() -> None:
        loop = clock()
        running = start(loop, work())
        if error is None:
            assert await running == "done"
        else:
            with pytest.raises((AssertionError, ValueError)):
                await running
        assert loop.pending == []

    drive(scenario())

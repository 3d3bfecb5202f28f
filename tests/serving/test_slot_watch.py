"""A slot whose task was cut short: granted again once the engine is seen to be done with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchd.engines.llamacpp import LlamaCpp
from orchd.engines.registry import ADAPTERS
from orchd.serving.slot_watch import is_seen_free
from orchd.serving.task import Ended, Failed, Priority, State
from tests.conftest import Drive
from tests.fakes.engine import FakeEngine, dies, hangs, tells
from tests.serving.rig import NEVER_S, Rig, states

SHORT_S = 0.05


async def turns() -> None:
    """Let everything happen that can happen by itself."""
    for _ in range(200):
        await asyncio.sleep(0)


async def until_asked(engine: FakeEngine, times: int) -> None:
    """Wait until the engine was asked so often for its slots."""
    while engine.slots_asked < times:  # noqa: ASYNC110, nothing tells of it
        await asyncio.sleep(0.001)


def test_a_cancelled_tasks_slot_is_granted_once_the_engine_is_done_with_it(
    drive: Drive[Any],
) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a"), hangs("b"), tells("c")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=2)
            cancelled, other, behind = rig.submit(), rig.submit(), rig.submit()
            await rig.listen(other).until_tokens(1)
            await rig.listen(cancelled).until_tokens(1)
            engine.lingering = 1
            rig.service.cancel(cancelled)
            await until_asked(engine, 3)
            assert (rig.busy(), behind.task.state) == (2, State.QUEUED)
            engine.lingering = 0
            assert isinstance((await rig.story(behind))[-1], Ended)
            while rig.busy() > 1:  # noqa: ASYNC110, nothing tells of it
                await asyncio.sleep(0)
            assert rig.busy() == 1 and rig.stuck == []
            assert other.task.state is State.STARTED, "cancelling one is nothing to another"

    drive(scenario())


def test_a_task_that_the_engine_ends_itself_gives_its_slot_at_once(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            await rig.story(rig.submit())
            await rig.until_free()
            assert engine.slots_asked == 0

    drive(scenario())


@pytest.mark.parametrize("script", [hangs("a"), dies("a")])
def test_an_engine_that_works_on_for_nobody_is_reported_as_stuck(
    drive: Drive[Any], script: Any
) -> None:
    async def scenario() -> None:
        rig = Rig(free_within_s=SHORT_S, settle_s=0.001)
        async with FakeEngine(script) as engine, rig:
            rig.open(engine.endpoint, slots=1)
            engine.lingering = 1
            entry = rig.submit()
            behind = rig.submit()
            listening = rig.listen(entry)
            await listening.until_tokens(1)
            rig.service.cancel(entry)
            await listening.to_the_end()
            while not rig.stuck:  # noqa: ASYNC110, nothing tells of it
                await asyncio.sleep(0.001)
            reason = f"worked on for {SHORT_S:g} s at a task that was cut short"
            assert rig.stuck == [("chat", "r0", reason)]
            await turns()
            assert (rig.busy(), behind.task.state) == (1, State.QUEUED)
            rig.close()
            async with FakeEngine(tells("b")) as fresh:
                rig.open(fresh.endpoint, slots=1)
                assert isinstance((await rig.story(behind))[-1], Ended)
                await rig.until_free()
            assert len(rig.stuck) == 1

    drive(scenario())


def test_a_replica_that_closes_is_waited_for_no_longer(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            engine.lingering = 1
            rig.service.cancel(entry)
            await until_asked(engine, 2)
            rig.close()
            while rig.service._runs:
                await asyncio.wait(rig.service._runs.values())
            assert rig.stuck == []

    drive(scenario())


def test_a_storm_of_cancels_waits_for_each_slot_by_itself(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(*[hangs("a")] * 4, tells("b")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=4)
            first = [rig.submit() for _ in range(4)]
            for entry in first:
                await rig.listen(entry).until_tokens(1)
            behind = [rig.submit() for _ in range(4)]
            engine.lingering = 3
            for entry in first:
                rig.service.cancel(entry)
            await until_asked(engine, 10)
            # Nothing is started, so not one slot may be at work: none is seen free before all are.
            assert states(*behind) == [State.QUEUED] * 4
            engine.lingering = 0
            for entry in behind:
                assert isinstance((await rig.story(entry))[-1], Ended)
            await rig.until_free()

    drive(scenario())


def test_the_daemons_end_waits_for_no_slot(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=2)
            entry, other = rig.submit(), rig.submit_batch()
            await rig.listen(entry).until_tokens(1)
            engine.lingering = 2
            rig.service.cancel(entry)
            await until_asked(engine, 1)
            rig.service.stop_admission()
            await rig.service.end_tasks()
            assert isinstance(rig.logged(other)[-1], Failed)
            assert rig.busy() == 0

    drive(scenario())


def test_the_pace_counts_how_long_a_slot_was_held(drive: Drive[Any]) -> None:
    """Also by a task that was cancelled: its slot was nobody else's all that time."""

    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            rig.service.cancel(entry)
            await rig.until_free()
            rig.submit(priority=Priority.BATCH)
            assert rig.submit().task.predicted_start_ms is not None

    drive(scenario())


# -- the watch by itself ---------------------------------------------------------------------------


@pytest.mark.parametrize("gone", ["refuses", "hangs up"])
def test_an_engine_that_does_not_answer_is_asked_again(drive: Drive[Any], gone: str) -> None:
    async def scenario() -> None:
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        adapter = ADAPTERS["llamacpp"]
        async with FakeEngine(hangs()) as engine:
            endpoint = engine.endpoint
            if gone == "hangs up":
                engine.slots_answer = b""
                assert not await is_seen_free(adapter, endpoint, lambda: 4, closed, SHORT_S)
                assert engine.slots_asked > 1
        if gone == "refuses":
            assert not await is_seen_free(adapter, endpoint, lambda: 4, closed, SHORT_S)
        closed.set_result(None)
        assert await is_seen_free(adapter, endpoint, lambda: 4, closed, NEVER_S)

    drive(scenario())


@pytest.mark.parametrize("status", [404, 501])
def test_an_engine_that_will_not_tell_is_believed(drive: Drive[Any], status: int) -> None:
    async def scenario() -> None:
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with FakeEngine(hangs()) as engine:
            engine.slots_answer = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status
            assert await is_seen_free(
                ADAPTERS["llamacpp"], engine.endpoint, lambda: 0, closed, NEVER_S
            )
            assert engine.slots_asked == 1

    drive(scenario())


def test_a_task_that_starts_while_the_engine_is_asked_is_not_taken_for_the_one_cut_short(
    drive: Drive[Any],
) -> None:
    async def scenario() -> None:
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        async with FakeEngine(hangs()) as engine:
            engine.lingering = 1

            def count_started() -> int:
                if engine.slots_asked:
                    engine.lingering = 2
                return min(engine.slots_asked, 1)

            adapter = ADAPTERS["llamacpp"]
            assert not await is_seen_free(adapter, engine.endpoint, count_started, closed, SHORT_S)

    drive(scenario())


class Doubting(LlamaCpp):
    """Its figures may be old ones, as vLLM's are."""

    def doubts_busy_after_s(self) -> float | None:
        return SHORT_S


def test_of_figures_that_may_be_old_no_replica_is_started_afresh(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        adapters = {"llamacpp": Doubting()}
        async with (
            FakeEngine(hangs("a"), tells("b")) as engine,
            Rig(adapters=adapters, free_within_s=NEVER_S) as rig,
        ):
            rig.open(engine.endpoint, slots=1)
            cancelled, behind = rig.submit(), rig.submit()
            await rig.listen(cancelled).until_tokens(1)
            engine.lingering = 1
            rig.service.cancel(cancelled)
            await until_asked(engine, 1)
            assert states(behind) == [State.QUEUED], "it is believed for a while"
            assert isinstance((await rig.story(behind))[-1], Ended)
            await rig.until_free()
            assert rig.stuck == []

    drive(scenario())

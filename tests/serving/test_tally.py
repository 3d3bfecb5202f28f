"""What the service tells of its tasks to whoever counts: each admission and each end, once."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from orchd.errors import Code
from orchd.serving.task import Ended, Failed, Priority, TaskEvent, Token
from tests.conftest import Drive
from tests.fakes.engine import FakeEngine, dies, hangs, refuses, tells, waits
from tests.serving.rig import Rig
from tests.serving.samples import make_pool


class FakeTally:
    """Remembers all that it is told."""

    def __init__(self) -> None:
        self.enqueued: list[tuple[str, str | None, str]] = []
        self.ended: list[tuple[str | None, int, int]] = []

    def count_enqueued(self, pool_id: str, replica_id: str | None, priority: Priority) -> None:
        self.enqueued.append((pool_id, replica_id, priority.value))

    def count_ended(
        self, pool_id: str, replica_id: str | None, tokens_in: int, tokens_out: int
    ) -> None:
        assert pool_id == "chat"
        self.ended.append((replica_id, tokens_in, tokens_out))


def sum_up(*stories: list[TaskEvent]) -> tuple[int, int]:
    """Tokens in and out by the events: of the ends, and what those that failed had streamed."""
    told = [story[-1] for story in stories]
    tokens_in = sum(event.tokens_in for event in told if isinstance(event, Ended))
    tokens_out = sum(event.tokens_out for event in told if isinstance(event, Ended))
    for story in stories:
        if isinstance(story[-1], Failed):
            tokens_out += sum(isinstance(event, Token) for event in story)
    return tokens_in, tokens_out


def test_a_task_that_is_taken_at_once_and_one_that_waits(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        tally = FakeTally()
        async with FakeEngine(waits(gate, "a")) as engine, Rig(tally=tally) as rig:
            rig.open(engine.endpoint, slots=1)
            first, second = rig.submit(), rig.submit_batch()
            assert tally.enqueued == [("chat", "r0", "interactive"), ("chat", None, "batch")]
            gate.set()
            for entry in (first, second):
                await rig.story(entry)
            assert len(tally.enqueued) == 2

    drive(scenario())


def test_a_refused_task_is_neither_enqueued_nor_ended(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        tally = FakeTally()
        async with Rig(make_pool(), tally=tally) as rig:
            assert rig.refuse().code is Code.POOL_UNAVAILABLE
            assert rig.refuse(pool_id="other").code is Code.INVALID_PARAMS
        assert (tally.enqueued, tally.ended) == ([], [])

    drive(scenario())


def test_an_end_is_counted_by_the_engines_figures(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        tally = FakeTally()
        script = tells("a", "b c d", tokens_in=33, tokens_out=7)
        async with FakeEngine(script) as engine, Rig(tally=tally) as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            assert tally.ended == [], "nothing is counted before the end"
            await rig.story(entry)
            assert tally.ended == [("r0", 33, 7)]

    drive(scenario())


def test_whatever_ends_a_task_is_counted_once(drive: Drive[Any]) -> None:
    """Ended well, refused, broken in mid-stream, cancelled in mid-stream and in the queue."""

    async def scenario() -> None:
        tally = FakeTally()
        scripts = (tells("a", "b"), refuses(400), dies("a", "b", "c"), hangs("a"))
        async with FakeEngine(*scripts) as engine, Rig(tally=tally, settle_s=0) as rig:
            rig.open(engine.endpoint, slots=1)
            stories = [await rig.story(rig.submit()) for _ in range(3)]
            hung, waiting = rig.submit(), rig.submit()
            listening = rig.listen(hung)
            await listening.until_tokens(1)
            rig.service.cancel(waiting)
            rig.service.cancel(hung)
            rig.service.cancel(hung)
            stories += [await listening.to_the_end(), await rig.story(waiting)]
            expected = [("r0", 5, 2), ("r0", 0, 0), ("r0", 0, 3), ("r0", 0, 1), (None, 0, 0)]
            assert Counter(tally.ended) == Counter(expected)
            tokens_in = sum(end[1] for end in tally.ended)
            tokens_out = sum(end[2] for end in tally.ended)
            assert (tokens_in, tokens_out) == sum_up(*stories) == (5, 6)

    drive(scenario())


def test_a_task_that_is_served_again_counts_where_it_ended(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        tally = FakeTally()
        first = FakeEngine(dies(), replica_id="r0")
        second = FakeEngine(tells("a"), replica_id="r1")
        async with first, second, Rig(tally=tally) as rig:
            rig.open(first.endpoint)
            entry = rig.submit()
            await first.wait_for_calls(1)
            rig.open(second.endpoint)
            await rig.story(entry)
            rig.close("r0")
        assert tally.enqueued == [("chat", "r0", "interactive")]
        assert tally.ended == [("r1", 5, 1)]

    drive(scenario())


def test_tasks_that_the_stop_ends_are_counted(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        tally = FakeTally()
        async with FakeEngine(hangs("a", "b")) as engine, Rig(tally=tally) as rig:
            rig.open(engine.endpoint, slots=1)
            listening = rig.listen(rig.submit())
            rig.submit()
            await listening.until_tokens(2)
            listening.leave()
        assert Counter(tally.ended) == Counter([("r0", 0, 2), (None, 0, 0)])

    drive(scenario())

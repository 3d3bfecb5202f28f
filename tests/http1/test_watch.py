"""The one timer of a connection, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from orchd.http1.deadlines import Expiry, Phase
from orchd.http1.limits import Limits
from orchd.http1.watch import Watch
from tests.fakes.loop import FakeLoop

LIMITS = Limits(
    head_timeout_s=10, body_timeout_s=30, keep_alive_s=75, linger_s=2, reader_stall_s=120
)


class Stage:
    """A watch, and the connection as far as it sees one."""

    def __init__(self) -> None:
        self.loop = FakeLoop()
        self.unsent_bytes = 0
        self.expired: list[Expiry] = []
        loop = cast(asyncio.AbstractEventLoop, self.loop)
        self.watch = Watch(LIMITS, loop, self._unsent, self._expire)
        self.watch.settle()

    def _unsent(self) -> int:
        return self.unsent_bytes

    def _expire(self, expiry: Expiry) -> None:
        self.expired.append(expiry)
        self.watch.enter(Phase.CLOSED)
        if expiry is Expiry.ABORT:
            self.watch.stop()

    def step(self, phase: Phase) -> None:
        self.watch.enter(phase)
        self.watch.settle()

    def write(self, size_bytes: int) -> None:
        self.watch.note_write(size_bytes)
        self.unsent_bytes += size_bytes
        self.watch.settle()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_nothing_comes_before_its_time(stage: Stage) -> None:
    stage.loop.pass_time(9.9)
    assert stage.expired == []
    stage.loop.pass_time(0.1)
    assert stage.expired == [Expiry.CLOSE]
    assert not stage.loop.pending


def test_a_first_head_has_been_awaited_since_the_connection_opened(stage: Stage) -> None:
    stage.loop.pass_time(8)
    stage.step(Phase.HEAD)
    stage.loop.pass_time(2)
    assert stage.expired == [Expiry.REFUSE]


def test_a_further_head_is_awaited_since_its_first_byte(stage: Stage) -> None:
    stage.step(Phase.IDLE)
    stage.loop.pass_time(70)
    stage.step(Phase.HEAD)
    stage.loop.pass_time(9.9)
    assert stage.expired == []
    stage.loop.pass_time(0.1)
    assert stage.expired == [Expiry.REFUSE]


def test_deadlines_that_move_away_make_no_timers(stage: Stage) -> None:
    for _ in range(1000):
        stage.step(Phase.BODY)
        stage.step(Phase.IDLE)
        stage.loop.pass_time(0.01)
    # One for the first head, and another when that one had fired.
    assert stage.loop.made <= 2
    assert len(stage.loop.pending) == 1
    stage.loop.pass_time(74)
    assert stage.expired == []
    stage.loop.pass_time(1)
    assert stage.expired == [Expiry.CLOSE]


def test_an_earlier_deadline_takes_the_place_of_the_timer(stage: Stage) -> None:
    stage.step(Phase.IDLE)
    stage.loop.pass_time(20)
    stage.step(Phase.LINGERING)
    assert len(stage.loop.pending) == 1
    stage.loop.pass_time(2)
    assert stage.expired == [Expiry.CLOSE]


def test_a_stream_has_no_deadline(stage: Stage) -> None:
    stage.step(Phase.STREAMING)
    stage.loop.pass_time(100_000)
    assert stage.expired == []
    assert not stage.loop.pending


@pytest.mark.parametrize("phase", Phase)
def test_a_reader_that_takes_nothing_is_dropped_in_any_phase(stage: Stage, phase: Phase) -> None:
    stage.step(phase)
    stage.write(1000)
    stage.loop.pass_time(119)
    assert stage.expired == []
    stage.loop.pass_time(31)
    assert stage.expired == [Expiry.ABORT]


def test_one_that_takes_a_little_is_not(stage: Stage) -> None:
    stage.step(Phase.STREAMING)
    stage.write(1000)
    for _ in range(500):
        stage.loop.pass_time(100)
        stage.unsent_bytes -= 1
        if stage.unsent_bytes < 900:
            stage.write(100)
    assert stage.expired == []


def test_after_the_stop_there_is_no_timer_and_none_comes(stage: Stage) -> None:
    stage.watch.stop()
    stage.step(Phase.HEAD)
    stage.write(1)
    assert not stage.loop.pending
    stage.loop.pass_time(1000)
    assert stage.expired == []

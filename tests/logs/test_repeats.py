"""What repeats, on a clock that the test moves."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from orchd.logs.repeats import Repeats
from orchd.logs.throttle import SPAN_S
from tests.fakes.loop import FakeLoop


@pytest.fixture
def loop() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def told() -> list[int]:
    return []


@pytest.fixture
def repeats(loop: FakeLoop, told: list[int]) -> Repeats:
    return Repeats(cast(asyncio.AbstractEventLoop, loop), told.append)


def test_a_thousand_are_two_lines(repeats: Repeats, loop: FakeLoop, told: list[int]) -> None:
    for _ in range(1000):
        repeats.note()
    assert (told, loop.made) == ([1], 1)
    loop.pass_time(SPAN_S)
    assert told == [1, 999]
    loop.pass_time(100 * SPAN_S)
    assert (told, loop.pending) == ([1, 999], [])


def test_a_steady_stream_is_a_line_a_span(
    repeats: Repeats, loop: FakeLoop, told: list[int]
) -> None:
    for _ in range(int(3 * SPAN_S)):
        repeats.note()
        loop.pass_time(1)
    assert sum(told) == 3 * SPAN_S
    assert len(told) == 4


def test_the_end_tells_of_the_rest_and_leaves_no_timer(
    repeats: Repeats, loop: FakeLoop, told: list[int]
) -> None:
    repeats.note()
    repeats.note()
    repeats.close()
    assert (told, loop.pending) == ([1, 1], [])
    repeats.note()
    assert loop.pending == []

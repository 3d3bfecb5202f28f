"""What counts as progress of a load, and what only looks like it."""

from __future__ import annotations

import pytest

from orchd.runner.load_progress import (
    BUSY_CORES,
    BUSY_PATIENCE,
    MEMORY_STEP_BYTES,
    LoadProgress,
    Signs,
)

NOTHING = Signs("503", 0, 0, 0)
STEP = MEMORY_STEP_BYTES


def idle_after(*seen: Signs) -> int:
    """How long there has been none, when these are seen a second after another."""
    progress = LoadProgress(0)
    for second, signs in enumerate(seen):
        progress.see(signs, second)
    last_s = len(seen) - 1
    return next(n for n in range(len(seen) + 1) if not progress.has_stalled(last_s, n))


@pytest.mark.parametrize(
    "later",
    [
        Signs("200", 0, 0, 0),
        Signs("503", 1, 0, 0),
        Signs("503", 0, STEP, 0),
        Signs("503", 0, 0, STEP),
    ],
    ids=["health", "output", "host memory", "device memory"],
)
def test_each_sign_by_itself_is_progress(later: Signs) -> None:
    assert idle_after(NOTHING, NOTHING, NOTHING) == 2
    assert idle_after(NOTHING, NOTHING, later) == 0
    assert idle_after(NOTHING, NOTHING, later, later) == 1


@pytest.mark.parametrize(
    "swing",
    [
        (Signs("503", 0, 0, 0), Signs("500", 0, 0, 0)),
        (Signs("503", 0, 4 * STEP, 0), Signs("503", 0, 2 * STEP, 0)),
        (Signs("503", 0, 0, 4 * STEP), Signs("503", 0, 0, 2 * STEP)),
    ],
    ids=["health", "host memory", "device memory"],
)
def test_to_and_fro_is_no_progress(swing: tuple[Signs, Signs]) -> None:
    assert idle_after(*(swing * 5)) >= 8


def test_memory_that_comes_back_is_no_progress_though_the_engine_said_something_meanwhile() -> None:
    high, low, again = (
        Signs("503", 0, 4 * STEP, 0),
        Signs("503", 1, 0, 0),
        Signs("503", 1, 4 * STEP, 0),
    )
    assert idle_after(high, low, again) == 1


def test_an_allocators_unrest_is_no_progress() -> None:
    assert idle_after(*(Signs("503", 0, n, n) for n in range(100))) == 99


def test_memory_that_creeps_up_counts_once_it_is_a_step() -> None:
    half = STEP // 2
    assert idle_after(*(Signs("503", 0, n * half, 0) for n in range(5))) == 0


def stalls_at(computed_each_s: float, stall_s: float) -> int:
    """The second at which an engine that does nothing but compute so much is given up."""
    progress = LoadProgress(0)
    for second in range(10_000):
        progress.see(Signs("503", 0, 0, 0, second * computed_each_s), second)
        if progress.has_stalled(second, stall_s):
            return second
    raise AssertionError("it is never given up")


def test_one_that_computes_is_given_longer_but_not_for_ever() -> None:
    assert stalls_at(0, 20) == 21
    assert stalls_at(BUSY_CORES / 2, 20) == 21
    assert stalls_at(BUSY_CORES, 20) == stalls_at(4, 20) == 20 * BUSY_PATIENCE + 1


def test_what_it_had_computed_before_it_stood_still_does_not_count() -> None:
    progress = LoadProgress(0)
    for second in range(100):
        progress.see(Signs("503", 0, 0, 0, 900 + min(second, 30)), second)
    assert progress.has_stalled(99, 60)
    assert not progress.has_stalled(90, 60)


def test_a_process_that_is_gone_takes_what_it_computed_with_it() -> None:
    progress = LoadProgress(0)
    computed_s = [10.0, 11.0, 3.0, 4.0, 5.0, 6.0]
    for second, computed in enumerate(computed_s):
        progress.see(Signs("503", 0, 0, 0, computed), second)
    assert not progress.has_stalled(5.5, 1)


def test_how_much_it_computes_is_looked_at_over_a_second() -> None:
    progress = LoadProgress(0)
    for tenth in range(100):
        progress.see(Signs("503", 0, 0, 0, tenth * 0.1), tenth / 10)
    assert not progress.has_stalled(9.9, 2)

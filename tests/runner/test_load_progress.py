"""What counts as progress of a load, and what only looks like it."""

from __future__ import annotations

import pytest

from orchd.runner.load_progress import MEMORY_STEP_BYTES, LoadProgress, Signs

NOTHING = Signs("503", 0, 0, 0)
STEP = MEMORY_STEP_BYTES


def idle_after(*seen: Signs) -> float:
    """How long there has been none, when these are seen a second after another."""
    progress = LoadProgress(0)
    for second, signs in enumerate(seen):
        progress.see(signs, second)
    return progress.idle_s(len(seen) - 1)


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

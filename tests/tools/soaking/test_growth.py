"""What grows without an end is told from what wavers, and from what is used for the first time."""

from __future__ import annotations

import random

import pytest
from soaking.growth import has_grown


@pytest.mark.parametrize(
    "readings",
    [
        [],
        [1, 2, 3, 4, 5],
        [10] * 9,
        [10, 50, 51, 51, 51, 51, 51, 51, 51],
        [10, 12, 10, 12, 10, 12, 10, 12, 10],
        [10, 10, 10, 90, 10, 10, 10, 10, 20],
        # By no more than the slack; less than it has been; once.
        [1, 1, 1, 1, 1, 1, 5, 5, 5],
        [10, 10, 10, 90, 10, 10, 50, 50, 50],
        [10, 10, 10, 10, 10, 10, 10, 50, 10],
        [*range(9)],
    ],
)
def test_what_has_not_grown(readings: list[float]) -> None:
    assert not has_grown(readings, slack=4)


@pytest.mark.parametrize("readings", [[*range(0, 90, 10)], [1, 1, 1, 1, 1, 1, 9, 9, 9]])
def test_what_has(readings: list[float]) -> None:
    assert has_grown(readings, slack=4)


def test_a_slow_leak_shows_under_noise_if_only_it_is_watched_for_long() -> None:
    dice = random.Random(1)
    leak = [n + dice.uniform(-3, 3) for n in range(30)]
    assert has_grown(leak, slack=1)
    assert not has_grown([dice.uniform(-3, 3) for _ in range(30)], slack=1)

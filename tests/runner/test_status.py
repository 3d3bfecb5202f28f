"""Why a replica is not ready, in words."""

from __future__ import annotations

import pytest

from orchd.runner.lifecycle import State
from orchd.runner.status import explain


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State.READY, None),
        (State.BACKOFF, "it broke; tries again in 5 s"),
        (State.FAILING, "it broke"),
        (State.PLACING, "placing for 3 s"),
        (State.LOADING, "loading for 3 s"),
        (State.STOPPING, "stopping for 3 s"),
        (State.DOWN, "down for 3 s"),
    ],
)
def test_each_state_has_its_reason(state: State, reason: str | None) -> None:
    assert explain(state, 3.2, "it broke", 8) == reason


def test_a_retry_that_is_overdue_is_not_said_to_be_in_the_past() -> None:
    assert explain(State.BACKOFF, 9, "it broke", 8) == "it broke; tries again in 0 s"

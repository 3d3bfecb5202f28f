"""Why a replica is not ready, in words, and how a device is shown."""

from __future__ import annotations

import pytest

from orchd.runner.lifecycle import State
from orchd.runner.snapshot import Unread, follow
from orchd.runner.status import (
    DeviceStatus,
    ReplicaStatus,
    decide_retry_s,
    describe_devices,
    explain,
)
from tests.runner.gpus import GIB, gpu, seen


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (State.READY, None),
        (State.BACKOFF, "it broke; tries again in 5 s"),
        (State.STOPPING, "it broke"),
        (State.PLACING, "placing for 3 s, after: it broke"),
        (State.LOADING, "loading for 3 s, after: it broke"),
        (State.DOWN, "down for 3 s"),
    ],
)
def test_each_state_has_its_reason(state: State, reason: str | None) -> None:
    assert explain(state, 3.2, "it broke", 8) == reason


@pytest.mark.parametrize("state", [State.PLACING, State.LOADING, State.STOPPING])
def test_a_first_start_has_nothing_before_it(state: State) -> None:
    assert explain(state, 3.2, "", 8) == f"{state} for 3 s"


@pytest.mark.parametrize("state", list(State))
def test_what_is_done_is_told_while_a_device_is_chosen_and_while_it_loads(state: State) -> None:
    plain = explain(state, 3.2, "it broke", 8)
    told = explain(state, 3.2, "it broke", 8, "reads a lot")
    if state in (State.PLACING, State.LOADING):
        assert told == f"{state} for 3 s (reads a lot), after: it broke"
        assert explain(state, 3.2, "", 8, "reads a lot") == f"{state} for 3 s (reads a lot)"
    else:
        assert told == plain


@pytest.mark.parametrize(
    ("waits_s", "expected_s"),
    [([], None), ([None], None), ([4.0], 4.0), ([4.0, 2.0], 2.0), ([4.0, None], None)],
)
def test_when_the_first_of_a_pool_is_tried_again(
    waits_s: list[float | None], expected_s: float | None
) -> None:
    replicas = [
        ReplicaStatus("chat-0", "m", None, State.BACKOFF, None, 0, "it broke", None, True, wait_s)
        for wait_s in waits_s
    ]
    assert decide_retry_s(replicas) == expected_s


def test_a_retry_that_is_overdue_is_not_said_to_be_in_the_past() -> None:
    assert explain(State.BACKOFF, 9, "it broke", 8) == "it broke; tries again in 0 s"


def test_a_device_is_shown_with_what_is_wrong_with_it() -> None:
    two = seen(gpu(0, 8, 7), gpu(1, 24, 20))
    sound, quarantined = describe_devices(follow(two, (two.gpus[0], Unread("errs"))), {})
    assert sound == DeviceStatus("GPU-0", 0, "card 0", 8 * GIB, 7 * GIB, 0, None, None)
    assert quarantined == DeviceStatus("GPU-1", 1, "card 1", 24 * GIB, None, 0, None, "errs")
    first, second = describe_devices(two, {"GPU-1": "did not give back 1 GiB"})
    assert (first.reason, second.reason) == (None, "did not give back 1 GiB")
    assert second.free_bytes == 20 * GIB

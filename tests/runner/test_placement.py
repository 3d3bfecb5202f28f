"""Which replicas a pool wants, and which device each gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.footprint import MIB, Footprint
from orchd.runner.placement import (
    Gpu,
    NoFit,
    Placed,
    ReplicaPlan,
    allowed_gpus,
    decide_placement,
    plan_replicas,
)
from tests.runner.pools import make_pool

GIB = 1024 * MIB


def gpu(index: int, total_gib: float, free_gib: float | None = None) -> Gpu:
    free = total_gib if free_gib is None else free_gib
    return Gpu(f"GPU-{index}", index, f"card {index}", int(total_gib * GIB), int(free * GIB))


def need(gib: float) -> Footprint:
    return Footprint(int(gib * GIB), "as written")


MIXED = (gpu(0, 8), gpu(1, 24), gpu(2, 12))


# -- which replicas ----------------------------------------------------------------------------


def test_a_number_of_replicas_may_each_get_any_device() -> None:
    plans = plan_replicas(make_pool(replicas=3, devices=("auto",)), MIXED)
    assert plans == tuple(ReplicaPlan(f"chat-{n}", ("auto",)) for n in range(3))


def test_per_device_pins_one_replica_to_each_allowed_device() -> None:
    plans = plan_replicas(make_pool(replicas="per-device", devices=("auto",)), MIXED)
    assert [plan.devices for plan in plans] == [("GPU-0",), ("GPU-1",), ("GPU-2",)]
    assert [plan.replica_id for plan in plans] == ["chat-0", "chat-1", "chat-2"]


def test_per_device_takes_the_cpu_only_where_it_is_written() -> None:
    plans = plan_replicas(make_pool(replicas="per-device", devices=("1", "cpu")), MIXED)
    assert [plan.devices for plan in plans] == [("GPU-1",), ("cpu",)]


def test_per_device_with_no_device_there_wants_one_replica_that_tells_why_not() -> None:
    plans = plan_replicas(make_pool(replicas="per-device", devices=("auto",)), ())
    assert plans == (ReplicaPlan("chat-0", ("auto",)),)


# -- which device ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        pytest.param(("auto",), ["GPU-0", "GPU-1", "GPU-2"], id="auto"),
        pytest.param(("2", "0"), ["GPU-0", "GPU-2"], id="indexes"),
        pytest.param(("GPU-1",), ["GPU-1"], id="uuid"),
        pytest.param(("GPU-1", "0", "cpu"), ["GPU-0", "GPU-1"], id="mixed"),
        pytest.param(("cpu",), [], id="cpu"),
        pytest.param(("7",), [], id="not there"),
    ],
)
def test_allowed_are_those_that_are_named(devices: tuple[str, ...], expected: list[str]) -> None:
    assert [gpu.uuid for gpu in allowed_gpus(devices, MIXED)] == expected


def test_an_index_is_nvmls_own_not_the_place_in_what_was_seen() -> None:
    assert decide_placement(("2",), need(1), (gpu(2, 12),), {}) == Placed("GPU-2")


def test_of_mixed_cards_the_one_with_the_most_available_is_taken() -> None:
    assert decide_placement(("auto",), need(6), MIXED, {}) == Placed("GPU-1")


def test_what_other_programs_hold_counts() -> None:
    seen = (gpu(0, 8), gpu(1, 24, free_gib=3))
    assert decide_placement(("auto",), need(6), seen, {}) == Placed("GPU-0")


def test_what_is_reserved_counts_before_it_is_seen() -> None:
    reserved = {"GPU-1": 20 * GIB}
    assert decide_placement(("auto",), need(6), MIXED, reserved) == Placed("GPU-2")


def test_a_reservation_that_is_seen_already_does_not_count_twice() -> None:
    seen = (gpu(0, 24, free_gib=12),)
    assert decide_placement(("auto",), need(12), seen, {"GPU-0": 12 * GIB}) == Placed("GPU-0")


def test_room_to_the_byte_is_room_and_one_less_is_none() -> None:
    seen = (gpu(0, 8),)
    assert decide_placement(("auto",), Footprint(8 * GIB, ""), seen, {}) == Placed("GPU-0")
    assert isinstance(decide_placement(("auto",), Footprint(8 * GIB + 1, ""), seen, {}), NoFit)


def test_too_large_says_the_need_and_the_best_there_is() -> None:
    assert decide_placement(("0", "2"), need(20), MIXED, {}) == NoFit(
        "needs 20.0 GiB (as written) and the best device, card 2, has 12.0 GiB available"
    )


def test_no_device_there_says_which_were_asked_for_and_which_were_seen() -> None:
    assert decide_placement(("7", "GPU-x"), need(1), MIXED[:2], {}) == NoFit(
        "none of the devices 7, GPU-x is there (seen: 0: GPU-0, 1: GPU-1)"
    )
    assert decide_placement(("auto",), need(1), (), {}) == NoFit(
        "none of the devices auto is there (seen: none)"
    )


def test_never_is_less_than_nothing_said_to_be_available() -> None:
    outcome = decide_placement(("auto",), need(1), (gpu(0, 8),), {"GPU-0": 9 * GIB})
    assert isinstance(outcome, NoFit)
    assert outcome.reason.endswith("has 0.0 GiB available")


# -- the CPU -----------------------------------------------------------------------------------


def test_the_cpu_is_never_taken_unless_written() -> None:
    assert isinstance(decide_placement(("auto",), need(99), MIXED, {}), NoFit)
    assert isinstance(decide_placement(("auto",), need(1), (), {}), NoFit)


def test_the_cpu_alone_needs_no_gpu_and_has_room_for_everything() -> None:
    assert decide_placement(("cpu",), need(999), (), {"cpu": 999 * GIB}) == Placed("cpu")


def test_the_cpu_beside_gpus_is_taken_only_where_they_have_no_room() -> None:
    assert decide_placement(("1", "cpu"), need(6), MIXED, {}) == Placed("GPU-1")
    assert decide_placement(("1", "cpu"), need(25), MIXED, {}) == Placed("cpu")
    assert decide_placement(("7", "cpu"), need(1), MIXED, {}) == Placed("cpu")


# -- whatever the machine ----------------------------------------------------------------------

sizes = st.integers(0, 64 * GIB)


@given(
    seen=st.lists(st.tuples(sizes, sizes), max_size=4),
    reserved=st.dictionaries(st.integers(0, 3), sizes),
    need_bytes=st.integers(1, 64 * GIB),
)
def test_no_device_is_promised_more_than_it_has(
    seen: list[tuple[int, int]], reserved: dict[int, int], need_bytes: int
) -> None:
    gpus = [
        Gpu(f"GPU-{n}", n, "card", total, min(free, total)) for n, (total, free) in enumerate(seen)
    ]
    promised = {f"GPU-{n}": size for n, size in reserved.items()}
    outcome = decide_placement(("auto",), Footprint(need_bytes, ""), gpus, promised)
    fitting = [
        gpu.uuid
        for gpu in gpus
        if need_bytes <= gpu.free_bytes
        and need_bytes + promised.get(gpu.uuid, 0) <= gpu.total_bytes
    ]
    match outcome:
        case Placed(device):
            assert device in fitting
        case NoFit():
            assert not fitting

"""Which replicas a pool wants, and which device each gets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.placement import (
    Machine,
    NoFit,
    Placed,
    ReplicaPlan,
    Reservation,
    available_bytes,
    decide_placement,
    plan_replicas,
)
from orchd.runner.snapshot import Gpu, HostMemory, NoReading, Snapshot, Unread, follow
from tests.runner.gpus import GIB, gpu, machine, need, need_bytes, promised, seen
from tests.runner.pools import make_pool

MIXED = (gpu(0, 8), gpu(1, 24), gpu(2, 12))
AUTO = ("auto",)


def device_of(outcome: Placed | NoFit) -> str | None:
    return outcome.device if isinstance(outcome, Placed) else None


def reason_of(outcome: Placed | NoFit) -> str:
    assert isinstance(outcome, NoFit)
    return outcome.reason


# -- which replicas ----------------------------------------------------------------------------


def test_a_number_of_replicas_may_each_get_any_device() -> None:
    plans = plan_replicas(make_pool(replicas=3, devices=AUTO), seen(*MIXED))
    assert plans == tuple(ReplicaPlan(f"chat-{n}", AUTO) for n in range(3))


def test_per_device_pins_one_replica_to_each_allowed_device() -> None:
    plans = plan_replicas(make_pool(replicas="per-device", devices=AUTO), seen(*MIXED))
    assert [plan.devices for plan in plans] == [("GPU-0",), ("GPU-1",), ("GPU-2",)]
    assert [plan.replica_id for plan in plans] == ["chat-0", "chat-1", "chat-2"]


def test_per_device_takes_the_cpu_only_where_it_is_written() -> None:
    plans = plan_replicas(make_pool(replicas="per-device", devices=("1", "cpu")), seen(*MIXED))
    assert [plan.devices for plan in plans] == [("GPU-1",), ("cpu",)]


def test_per_device_wants_a_replica_of_a_quarantined_card_too() -> None:
    held = follow(seen(*MIXED), (MIXED[0], Unread("errs"), MIXED[2]))
    plans = plan_replicas(make_pool(replicas="per-device", devices=AUTO), held)
    assert [plan.devices for plan in plans] == [("GPU-0",), ("GPU-1",), ("GPU-2",)]


def test_per_device_with_no_device_there_wants_none() -> None:
    assert plan_replicas(make_pool(replicas="per-device", devices=AUTO), Snapshot()) == ()


# -- workstations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cards", "needs", "expected"),
    [
        pytest.param([24], [10, 10, 10], [0, 0, None], id="one of 24"),
        pytest.param([24, 12], [10, 10, 10], [0, 0, 1], id="24 and 12"),
        pytest.param([24, 12], [13, 10, 10], [0, 1, 0], id="24 and 12, the large one first"),
        pytest.param([8, 8, 24], [6, 6, 6, 6, 6, 6], [2, 2, 2, 0, 1, 2], id="8, 8 and 24"),
        pytest.param([8, 8, 8, 8], [5, 5, 5, 5, 5], [0, 1, 2, 3, None], id="four alike"),
        pytest.param([8, 8, 8, 8], [3] * 9, [0, 1, 2, 3, 0, 1, 2, 3, None], id="four alike, twice"),
        pytest.param([], [1], [None], id="none"),
    ],
)
def test_replicas_one_after_another(
    cards: list[int], needs: list[int], expected: list[int | None]
) -> None:
    gpus = [gpu(index, total) for index, total in enumerate(cards)]
    reserved: tuple[Reservation, ...] = ()
    got: list[int | None] = []
    for size in needs:
        outcome = decide_placement(AUTO, need(size), machine(*gpus, reserved=reserved))
        match outcome:
            case Placed(device, size_bytes):
                reserved += (Reservation("r", device, size_bytes),)
                got.append(int(device.removeprefix("GPU-")))
            case NoFit():
                got.append(None)
    assert got == expected


# -- which device ------------------------------------------------------------------------------


def test_of_mixed_cards_the_one_with_the_most_available_is_taken() -> None:
    placed = decide_placement(AUTO, need(6), machine(*MIXED))
    assert placed == Placed("GPU-1", 6 * GIB)


def test_of_equals_the_lower_index_is_taken_in_whatever_order_they_are_told() -> None:
    alike = [gpu(2, 8), gpu(0, 8), gpu(1, 8)]
    indexes = {each.uuid: index for index, each in enumerate(alike)}
    first = min(alike, key=lambda each: indexes[each.uuid])
    assert device_of(decide_placement(AUTO, need(6), machine(*alike))) == first.uuid


def test_what_other_programs_hold_counts() -> None:
    cards = machine(gpu(0, 8), gpu(1, 24, free_gib=3))
    assert device_of(decide_placement(AUTO, need(6), cards)) == "GPU-0"


def test_what_is_reserved_counts_before_it_is_seen() -> None:
    cards = machine(*MIXED, reserved=(promised("GPU-1", 20),))
    assert device_of(decide_placement(AUTO, need(6), cards)) == "GPU-2"


def test_a_reservation_that_is_in_use_already_does_not_count_twice() -> None:
    cards = machine(gpu(0, 24, free_gib=12), reserved=(promised("GPU-0", 12, used_gib=12),))
    assert device_of(decide_placement(AUTO, need(12), cards)) == "GPU-0"


def test_a_neighbour_and_a_load_that_has_taken_nothing_yet_both_count() -> None:
    """The smaller of free and total less reserved would be 14 here, and 4 of those are taken."""
    neighbour = gpu(0, 24, free_gib=20)
    cards = machine(neighbour, reserved=(promised("GPU-0", 10),))
    assert device_of(decide_placement(AUTO, need(10), cards)) == "GPU-0"
    assert device_of(decide_placement(AUTO, need(10.1), cards)) is None


def test_one_that_is_loaded_and_one_that_is_not_are_each_counted_once() -> None:
    held = (promised("GPU-0", 10, used_gib=10), promised("GPU-0", 6))
    cards = machine(gpu(0, 24, free_gib=13), reserved=held)  # 1 GiB is a neighbour's
    assert available_bytes(24 * GIB, 13 * GIB, held) == 7 * GIB
    assert device_of(decide_placement(AUTO, need(7), cards)) == "GPU-0"


def test_room_to_the_byte_is_room_and_one_less_is_none() -> None:
    exact, more = need_bytes(8 * GIB), need_bytes(8 * GIB + 1)
    assert device_of(decide_placement(AUTO, exact, machine(gpu(0, 8)))) == "GPU-0"
    assert device_of(decide_placement(AUTO, more, machine(gpu(0, 8)))) is None


# -- why not -----------------------------------------------------------------------------------


def test_too_large_says_of_each_device_what_it_has() -> None:
    held = (promised("GPU-1", 20, replica_id="a-0"), promised("GPU-1", 2, replica_id="b-0"))
    outcome = decide_placement(("0", "1"), need(20), machine(*MIXED, reserved=held))
    assert reason_of(outcome) == (
        "needs 20.0 GiB (as written): GPU 0 (card 0) has 8.0 GiB available of 8.0 GiB; GPU 1"
        " (card 1) has 2.0 GiB available of 24.0 GiB, 22.0 GiB reserved by a-0, b-0; GPU 2"
        " (card 2) is not among the pool's devices"
    )


def test_one_in_quarantine_says_its_own_reason() -> None:
    held = follow(seen(*MIXED[:2]), (Unread("has fallen off the bus"), MIXED[1]))
    cards = Machine(held, HostMemory(0, 0))
    assert device_of(decide_placement(AUTO, need(6), cards)) == "GPU-1"
    assert "GPU 0 (card 0) has fallen off the bus; GPU 1 (card 1) has 24.0 GiB" in reason_of(
        decide_placement(AUTO, need(30), cards)
    )


def test_no_device_there_says_which_were_asked_for_and_which_were_seen() -> None:
    outcome = decide_placement(("7",), need(1), machine(gpu(0, 8)))
    assert reason_of(outcome) == (
        "needs 1.0 GiB (as written): there is no GPU 7 (seen: GPU 0 (card 0));"
        " GPU 0 (card 0) is not among the pool's devices"
    )
    outcome = decide_placement(AUTO, need(1), machine())
    assert reason_of(outcome) == "needs 1.0 GiB (as written): there is no NVIDIA GPU"


def test_where_none_can_be_read_the_driver_is_the_reason_once() -> None:
    blind = follow(seen(*MIXED), NoReading("the NVIDIA driver is installed but not loaded"))
    outcome = decide_placement(AUTO, need(1), Machine(blind, HostMemory(0, 0)))
    expected = "needs 1.0 GiB (as written): the NVIDIA driver is installed but not loaded"
    assert reason_of(outcome) == expected


def test_never_is_less_than_nothing_said_to_be_available() -> None:
    cards = machine(gpu(0, 8), reserved=(promised("GPU-0", 9),))
    assert "has 0.0 GiB available of 8.0" in reason_of(decide_placement(AUTO, need(1), cards))


# -- the CPU -----------------------------------------------------------------------------------


def test_the_cpu_is_never_taken_unless_written() -> None:
    assert device_of(decide_placement(AUTO, need(99), machine(*MIXED, ram_gib=999))) is None
    assert device_of(decide_placement(AUTO, need(1), machine(ram_gib=999))) is None


def test_the_cpu_has_the_room_that_the_machines_memory_has() -> None:
    cards = machine(ram_gib=16, reserved=(promised("cpu", 6, replica_id="a-0"),))
    assert decide_placement(("cpu",), need(10), cards) == Placed("cpu", 10 * GIB)
    assert reason_of(decide_placement(("cpu",), need(11), cards)) == (
        "needs 11.0 GiB (as written): the CPU has 10.0 GiB available of 16.0 GiB,"
        " 6.0 GiB reserved by a-0"
    )


def test_the_cpu_beside_gpus_is_taken_only_where_they_have_no_room() -> None:
    cards = machine(*MIXED, ram_gib=64)
    assert device_of(decide_placement(("1", "cpu"), need(6), cards)) == "GPU-1"
    assert device_of(decide_placement(("1", "cpu"), need(25), cards)) == "cpu"
    assert device_of(decide_placement(("7", "cpu"), need(1), cards)) == "cpu"
    blind = replace(cards, snapshot=follow(cards.snapshot, NoReading("no driver")))
    assert device_of(decide_placement(("1", "cpu"), need(6), blind)) == "cpu"


def test_the_cpu_may_need_another_amount_than_a_gpu_would() -> None:
    needs = need(25, on_cpu_gib=30)
    assert decide_placement(("1", "cpu"), needs, machine(*MIXED, ram_gib=30)) == (
        Placed("cpu", 30 * GIB)
    )
    small = machine(*MIXED, ram_gib=29)
    reason = reason_of(decide_placement(("1", "cpu"), needs, small))
    assert reason.startswith("needs 25.0 GiB (as written): ")
    assert reason.endswith("the CPU would take 30.0 GiB and has 29.0 GiB available of 29.0 GiB")
    reason = reason_of(decide_placement(("cpu",), needs, small))
    assert reason.startswith("needs 30.0 GiB (for the CPU): the CPU has 29.0 GiB")


# -- whatever the machine ----------------------------------------------------------------------

sizes = st.integers(0, 32 * GIB)


@dataclass(frozen=True)
class Load:
    """A replica of ours: what it was promised, and how much of it it has taken so far."""

    reserved_bytes: int
    used_bytes: int


@dataclass(frozen=True)
class Truth:
    """One card as it really is."""

    total_bytes: int
    others_bytes: int
    loads: tuple[Load, ...]
    is_sound: bool
    is_allowed: bool

    @property
    def spoken_for_bytes(self) -> int:
        mine = sum(max(load.reserved_bytes, load.used_bytes) for load in self.loads)
        return self.others_bytes + mine


@st.composite
def truths(draw: st.DrawFn) -> Truth:
    total = draw(st.integers(1, 32 * GIB))
    others = draw(st.integers(0, total))
    left, loads = total - others, []
    for _ in range(draw(st.integers(0, 3))):
        reserved = draw(st.integers(0, left))
        loads.append(Load(reserved, draw(st.integers(0, reserved))))
        left -= reserved
    return Truth(total, others, tuple(loads), draw(st.booleans()), draw(st.booleans()))


def observe(cards: list[Truth]) -> Machine:
    gpus: list[Gpu | Unread] = []
    reserved = []
    for index, card in enumerate(cards):
        used = card.others_bytes + sum(load.used_bytes for load in card.loads)
        gpus.append(Gpu(f"GPU-{index}", index, "card", card.total_bytes, card.total_bytes - used))
        for load in card.loads:
            reserved.append(Reservation("r", f"GPU-{index}", load.reserved_bytes, load.used_bytes))
    snapshot = follow(Snapshot(), gpus)
    hurt = [one if card.is_sound else Unread("errs") for one, card in zip(gpus, cards, strict=True)]
    return Machine(follow(snapshot, hurt), HostMemory(0, 0), tuple(reserved))


@given(cards=st.lists(truths(), max_size=5), size_bytes=st.integers(1, 32 * GIB))
def test_the_most_available_is_chosen_and_no_card_is_ever_promised_more_than_it_has(
    cards: list[Truth], size_bytes: int
) -> None:
    devices = tuple(str(n) for n, card in enumerate(cards) if card.is_allowed) or ("99",)
    observed = observe(cards)
    outcome = decide_placement(devices, need_bytes(size_bytes), observed)
    left = {
        f"GPU-{n}": card.total_bytes - card.spoken_for_bytes
        for n, card in enumerate(cards)
        if card.is_sound and card.is_allowed
    }
    match outcome:
        case Placed(device, promised_bytes):
            assert promised_bytes == size_bytes
            assert left[device] >= size_bytes
            assert left[device] == max(left.values())
            assert device == next(uuid for uuid, size in left.items() if size == left[device])
        case NoFit(reason):
            assert all(size < size_bytes for size in left.values())
            for n, card in enumerate(cards):
                assert f"GPU {n} " in reason, card
    assert decide_placement(devices, need_bytes(size_bytes), observed) == outcome


@given(truths(), sizes)
def test_a_use_that_was_told_too_high_does_not_promise_more_than_the_card_has(
    card: Truth, too_much: int
) -> None:
    used = card.others_bytes + sum(load.used_bytes for load in card.loads)
    reserved = [
        Reservation("r", "d", load.reserved_bytes, load.used_bytes + too_much)
        for load in card.loads
    ]
    available = available_bytes(card.total_bytes, card.total_bytes - used, reserved)
    assert available + sum(held.size_bytes for held in reserved) <= card.total_bytes

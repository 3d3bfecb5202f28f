"""How a reload goes about: the plan, over machines and models of every size."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.reload_outcome import Strategy
from orchd.runner.allowed import CPU
from orchd.runner.placement import (
    Machine,
    NoFit,
    Placed,
    ReplicaPlan,
    Reservation,
    decide_placement,
)
from orchd.runner.reload import ReloadPlan, plan_reload
from orchd.runner.snapshot import Gpu, HostMemory
from tests.runner.gpus import GIB, gpu, machine, need, need_bytes, promised, seen

AUTO = ("auto",)
BESIDE, IN_PLACE = Strategy.SIDE_BY_SIDE, Strategy.IN_PLACE


def new(*devices: tuple[str, ...]) -> list[ReplicaPlan]:
    return [ReplicaPlan(f"new-{n}", each) for n, each in enumerate(devices)]


def old(device: str, gib: float, n: int = 0) -> Reservation:
    """A replica of the old model that has loaded."""
    return promised(device, gib, gib, f"old-{n}")


def find_leaving(on: Machine) -> list[str]:
    return [held.replica_id for held in on.reservations if held.replica_id.startswith("old")]


def plan(needs_gib: float, on: Machine, *devices: tuple[str, ...]) -> Strategy | NoFit:
    way = plan_reload(new(*(devices or (AUTO,))), need(needs_gib), on, find_leaving(on))
    return way if isinstance(way, NoFit) else way.strategy


def claims(needs_gib: float, on: Machine, *devices: tuple[str, ...]) -> dict[str, float]:
    way = plan_reload(new(*devices), need(needs_gib), on, find_leaving(on))
    assert isinstance(way, ReloadPlan)
    return {device: size / GIB for device, size in way.claims.items()}


@pytest.mark.parametrize(
    ("needs_gib", "expected"),
    [(1, BESIDE), (3.9, BESIDE), (4, BESIDE), (4.1, IN_PLACE), (12, IN_PLACE)],
)
def test_it_is_side_by_side_where_there_is_room_for_both(
    needs_gib: float, expected: Strategy
) -> None:
    assert plan(needs_gib, machine(gpu(0, 12, 4), reserved=(old("GPU-0", 8),))) == expected


def test_what_would_not_fit_in_the_place_of_the_old_is_not_tried() -> None:
    outcome = plan(12.1, machine(gpu(0, 12, 4), reserved=(old("GPU-0", 8),)))
    assert outcome == NoFit(
        "replica new-0: needs 12.1 GiB (as written): GPU 0 (card 0) has 12.0 GiB available of"
        " 12.0 GiB"
    )


def test_the_memory_of_others_is_not_counted_on() -> None:
    """Neither other programs' nor other pools'."""
    others = (old("GPU-0", 4), promised("GPU-0", 4, 4, "other-0"))
    assert plan(6, machine(gpu(0, 16, 2), reserved=others)) == IN_PLACE
    assert isinstance(plan(6.1, machine(gpu(0, 16, 2), reserved=others)), NoFit)


def test_a_replica_that_is_loading_still_is_counted_whole() -> None:
    """Its reservation is in no reading yet: nothing of it is free, and nothing is freed twice."""
    loading = promised("GPU-0", 8, 1, "old-0")
    assert plan(5, machine(gpu(0, 12, 11), reserved=(loading,))) == IN_PLACE
    assert plan(4, machine(gpu(0, 12, 11), reserved=(loading,))) == BESIDE


def test_the_old_ones_room_is_on_their_own_cards() -> None:
    cards = (gpu(0, 12, 4), gpu(1, 8, 8))
    assert plan(9, machine(*cards, reserved=(old("GPU-0", 8),)), ("GPU-0",)) == IN_PLACE
    assert isinstance(plan(9, machine(*cards, reserved=(old("GPU-0", 8),)), ("GPU-1",)), NoFit)


def test_all_new_replicas_must_fit_at_once() -> None:
    """One of two beside the old ones would leave the pool with half of it."""
    cards = (gpu(0, 12, 4), gpu(1, 12, 6))
    held = (old("GPU-0", 8), old("GPU-1", 6, 1))
    assert plan(4, machine(*cards, reserved=held), AUTO, AUTO) == BESIDE
    assert plan(5, machine(*cards, reserved=held), AUTO, AUTO) == IN_PLACE
    assert isinstance(plan(5, machine(*cards, reserved=held), *[AUTO] * 5), NoFit)


def test_on_the_cpu_it_is_the_machines_own_memory() -> None:
    host = HostMemory(16 * GIB, 6 * GIB)
    on = Machine(seen(), host, (promised(CPU, 8, 8, "old-0"),))
    assert plan(6, on, (CPU,)) == BESIDE
    assert plan(7, on, (CPU,)) == IN_PLACE
    assert isinstance(plan(15, on, (CPU,)), NoFit)


def test_a_pool_without_a_running_replica_is_placed_like_a_new_one() -> None:
    assert plan(8, machine(gpu(0, 8))) == BESIDE


def test_in_place_as_much_is_kept_as_the_larger_of_the_two_needs() -> None:
    held = (old("GPU-0", 8), old("GPU-1", 6, 1), promised("GPU-1", 2, 2, "other-0"))
    on = machine(gpu(0, 12, 4), gpu(1, 12, 4), reserved=held)
    assert claims(5, on, AUTO, AUTO) == {"GPU-0": 8, "GPU-1": 6}
    assert claims(9, on, AUTO, AUTO) == {"GPU-0": 9, "GPU-1": 9}
    assert claims(9, on, AUTO) == {"GPU-0": 9, "GPU-1": 6}
    assert claims(1, on, AUTO, AUTO) == {}, "side by side it is not needed"


# -- any machine -------------------------------------------------------------------------------

sizes = st.integers(min_value=0, max_value=40)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Up to three cards, in units of one byte; what is used of each is held or other programs'."""
    gpus: list[Gpu] = []
    reserved: list[Reservation] = []
    for index in range(draw(st.integers(0, 3))):
        total = draw(st.integers(1, 40))
        used, free = 0, total
        for kind in draw(st.lists(st.sampled_from(["old", "other", "program"]), max_size=3)):
            size = draw(st.integers(0, free))
            free -= size
            used += size
            if kind != "program":
                name = f"{kind}-{index}-{len(reserved)}"
                more = draw(st.integers(0, 5))
                reserved.append(Reservation(name, f"GPU-{index}", size + more, size))
        card = gpu(index, 1)
        gpus.append(replace(card, total_bytes=total, free_bytes=free))
    return Machine(seen(*gpus), HostMemory(0, 0), tuple(reserved))


def place_all(plans: list[ReplicaPlan], size: int, on: Machine) -> bool:
    """One after the other, as replicas do it."""
    for each in plans:
        outcome = decide_placement(each.devices, need_bytes(size), on)
        if not isinstance(outcome, Placed):
            return False
        taken = Reservation(each.replica_id, outcome.device, outcome.need_bytes)
        on = replace(on, reservations=(*on.reservations, taken))
    return True


def let_go(on: Machine) -> Machine:
    """The machine as its next reading shows it once the old replicas are gone."""
    gone = [held for held in on.reservations if held.replica_id.startswith("old")]
    freed = {
        card.uuid: sum(held.used_bytes for held in gone if held.device == card.uuid)
        for card in on.snapshot.gpus
    }
    gpus = [replace(c, free_bytes=c.free_bytes + freed[c.uuid]) for c in on.snapshot.gpus]
    rest = tuple(held for held in on.reservations if held not in gone)
    return Machine(seen(*gpus), on.host, rest)


@given(on=machines(), size=st.integers(0, 40), count=st.integers(1, 4))
def test_the_plan_is_what_comes_of_placing_them(on: Machine, size: int, count: int) -> None:
    plans = new(*[AUTO] * count)
    way = plan_reload(plans, need_bytes(size), on, find_leaving(on))
    can_be_beside, can_be_in_place = place_all(plans, size, on), place_all(plans, size, let_go(on))
    if isinstance(way, NoFit):
        assert not can_be_in_place
    else:
        assert (way.strategy is BESIDE) == can_be_beside
        assert can_be_beside or can_be_in_place


@given(on=machines(), size=st.integers(0, 40), count=st.integers(1, 4))
def test_nothing_is_promised_beyond_what_a_card_has(on: Machine, size: int, count: int) -> None:
    """Side by side: with all that is held, and all that other programs have."""
    plans = new(*[AUTO] * count)
    if plan_reload(plans, need_bytes(size), on, []) != ReloadPlan(BESIDE):
        return
    promises = list(on.reservations)
    for each in plans:
        outcome = decide_placement(
            each.devices, need_bytes(size), replace(on, reservations=tuple(promises))
        )
        assert isinstance(outcome, Placed)
        promises.append(Reservation(each.replica_id, outcome.device, size))
    for card in on.snapshot.gpus:
        fresh = [
            held.size_bytes for held in promises[len(on.reservations) :] if held.device == card.uuid
        ]
        before = [held for held in on.reservations if held.device == card.uuid]
        unused = sum(max(held.size_bytes - held.used_bytes, 0) for held in before)
        assert sum(fresh) + unused <= card.free_bytes or not sum(fresh)

"""How a reload goes about: with the new replicas beside the old, or in their place.

Side by side where all the new ones fit while the old still hold what they hold: then the old model
serves until the new one has proven itself. Else in place, where they fit once the old are gone. The
reckoning is the one that places replicas; what it finds may be gone when they are placed, so the
shell asks again before it gives up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchd.reload_outcome import Strategy
from orchd.runner.allowed import CPU
from orchd.runner.placement import (
    Machine,
    Needs,
    NoFit,
    ReplicaPlan,
    Reservation,
    decide_placement,
)
from orchd.runner.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """The way of a reload."""

    strategy: Strategy
    claims: Mapping[str, int] = field(default_factory=dict)
    """In place: the bytes of each device that are kept for the pool meanwhile. As much as the new
    replicas need or as the old ones had, whichever is more: one of the two shall find room."""


def plan_reload(
    plans: Sequence[ReplicaPlan], needs: Needs, machine: Machine, leaving: Collection[str]
) -> ReloadPlan | NoFit:
    """Choose the way for these new replicas; ``leaving`` has the ids of those that they replace."""
    if not isinstance(_place(plans, needs, machine), NoFit):
        return ReloadPlan(Strategy.SIDE_BY_SIDE)
    placed = _place(plans, needs, _without(machine, leaving))
    if isinstance(placed, NoFit):
        return placed
    new = _sum_up(placed)
    old = _sum_up(held for held in machine.reservations if held.replica_id in leaving)
    claims = {device: max(new[device], old[device]) for device in new | old}
    return ReloadPlan(Strategy.IN_PLACE, claims)


def _place(
    plans: Sequence[ReplicaPlan], needs: Needs, machine: Machine
) -> list[Reservation] | NoFit:
    """Place all of them, one after the other, or tell why that cannot be."""
    placed: list[Reservation] = []
    for plan in plans:
        outcome = decide_placement(plan.devices, needs, machine)
        if isinstance(outcome, NoFit):
            return NoFit(f"replica {plan.replica_id}: {outcome.reason}")
        placed.append(Reservation(plan.replica_id, outcome.device, outcome.need_bytes))
        machine = replace(machine, reservations=(*machine.reservations, placed[-1]))
    return placed


def _sum_up(reservations: Iterable[Reservation]) -> Counter[str]:
    """Bytes by device."""
    sums: Counter[str] = Counter()
    for held in reservations:
        sums[held.device] += held.size_bytes
    return sums


def _without(machine: Machine, leaving: Collection[str]) -> Machine:
    """The machine once those replicas are gone and their memory is back."""
    freed: Counter[str] = Counter()
    for held in machine.reservations:
        if held.replica_id in leaving:
            freed[held.device] += held.used_bytes
    # That a device has no more than its total is seen to wherever it is asked what is available.
    available_bytes = machine.host.available_bytes + freed[CPU]
    return Machine(
        _with_free(machine.snapshot, freed),
        replace(machine.host, available_bytes=available_bytes),
        tuple(held for held in machine.reservations if held.replica_id not in leaving),
    )


def _with_free(snapshot: Snapshot, freed: Counter[str]) -> Snapshot:
    gpus = (replace(gpu, free_bytes=gpu.free_bytes + freed[gpu.uuid]) for gpu in snapshot.gpus)
    return replace(snapshot, gpus=tuple(gpus))

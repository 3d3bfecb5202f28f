"""How a reload goes about: with the new replicas beside the old, or in their place.

Side by side where all the new ones fit while the old still hold what they hold: then the old model
serves until the new one has proven itself. Else in place, where they fit once the old are gone. The
reckoning is the one that places replicas; what it finds may be gone when they are placed, so the
shell asks again before it gives up.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

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
from orchd.runner.snapshot import Gpu, HostMemory, Snapshot


def plan_reload(
    plans: Sequence[ReplicaPlan], needs: Needs, machine: Machine, leaving: Collection[str]
) -> Strategy | NoFit:
    """Choose the way for these new replicas; ``leaving`` has the ids of those that they replace."""
    if _find_obstacle(plans, needs, machine) is None:
        return Strategy.SIDE_BY_SIDE
    return _find_obstacle(plans, needs, _without(machine, leaving)) or Strategy.IN_PLACE


def _find_obstacle(plans: Sequence[ReplicaPlan], needs: Needs, machine: Machine) -> NoFit | None:
    """Why not all of them can be placed, one after the other; None where they can."""
    for plan in plans:
        outcome = decide_placement(plan.devices, needs, machine)
        if isinstance(outcome, NoFit):
            return NoFit(f"replica {plan.replica_id}: {outcome.reason}")
        promised = Reservation(plan.replica_id, outcome.device, outcome.need_bytes)
        machine = replace(machine, reservations=(*machine.reservations, promised))
    return None


def _without(machine: Machine, leaving: Collection[str]) -> Machine:
    """The machine once those replicas are gone and their memory is back."""
    freed: dict[str, int] = {}
    for held in machine.reservations:
        if held.replica_id in leaving:
            freed[held.device] = freed.get(held.device, 0) + held.used_bytes
    return Machine(
        _with_free(machine.snapshot, freed),
        _with_available(machine.host, freed.get(CPU, 0)),
        tuple(held for held in machine.reservations if held.replica_id not in leaving),
    )


def _with_free(snapshot: Snapshot, freed: dict[str, int]) -> Snapshot:
    gpus = tuple(_with_free_bytes(gpu, freed.get(gpu.uuid, 0)) for gpu in snapshot.gpus)
    return replace(snapshot, gpus=gpus)


def _with_free_bytes(gpu: Gpu, freed_bytes: int) -> Gpu:
    return replace(gpu, free_bytes=min(gpu.free_bytes + freed_bytes, gpu.total_bytes))


def _with_available(host: HostMemory, freed_bytes: int) -> HostMemory:
    available_bytes = min(host.available_bytes + freed_bytes, host.total_bytes)
    return replace(host, available_bytes=available_bytes)

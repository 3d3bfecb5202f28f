"""Replicas that found no room, and who of them is to try again when there is more.

A wake-up is a hint: who is woken decides afresh, and may find that another was quicker. So that
not all rush for the same room, what one that is woken needs counts for those behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from orchd.runner.placement import (
    Machine,
    Needs,
    NoFit,
    Placed,
    ReplicaPlan,
    Reservation,
    decide_placement,
)


@dataclass(frozen=True, slots=True, eq=False)
class Waiter:
    """One replica that waits for room."""

    plan: ReplicaPlan
    needs: Needs
    wake: Callable[[], None]


class WaitingRoom:
    """All of them, in the order of coming."""

    def __init__(self) -> None:
        self._waiters: list[Waiter] = []

    @property
    def is_empty(self) -> bool:
        return not self._waiters

    def enter(self, waiter: Waiter) -> None:
        self._waiters.append(waiter)

    def leave(self, waiter: Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def wake(self, machine: Machine) -> None:
        """Wake those that would find room now; they have left then."""
        for waiter in list(self._waiters):
            match decide_placement(waiter.plan.devices, waiter.needs, machine):
                case Placed(device, need_bytes):
                    promised = Reservation(waiter.plan.replica_id, device, need_bytes)
                    machine = replace(machine, reservations=(*machine.reservations, promised))
                    self._waiters.remove(waiter)
                    waiter.wake()
                case NoFit():
                    pass

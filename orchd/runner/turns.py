"""Whose turn it is to load on a GPU: one replica at a time, in the order of asking.

What is serialised, and why: from the moment right before a spawn until the memory that the load
took is measured, the use of the device must rise by this load alone, or the measurement says
nothing. So a load also waits until everything that exited before it is seen to have given its
memory back. A stop waits for nothing: no turn is needed to end a process, and what it gives back
during another's load is reckoned out of that load's baseline (``ledger.note_exit``). On the CPU
nothing is measured, so there are no turns.

Invariants: who waits for a turn holds no other, so nobody waits in a circle; a turn has one owner,
which gives it back on every path, cancellation included.
"""

from __future__ import annotations

import asyncio

from orchd.runner.ledger import Holding
from orchd.runner.returns import Returns


class Turns:
    """The turns of all GPUs."""

    def __init__(self, returns: Returns) -> None:
        self._returns = returns
        self._locks: dict[str, asyncio.Lock] = {}

    async def take(self, holding: Holding) -> bool:
        """Wait for the turn on the holding's device; True where it had to wait for it."""
        device = holding.device
        lock = self._locks.setdefault(device, asyncio.Lock())
        has_waited = lock.locked() or self._returns.is_outstanding(device)
        await lock.acquire()
        try:
            await self._returns.settle(device)
        except BaseException:
            lock.release()
            raise
        holding.is_loading = True
        return has_waited

    def give_back(self, holding: Holding) -> None:
        """The load is measured, or has failed; nothing happens where it had no turn."""
        if holding.is_loading:
            holding.is_loading = False
            self._locks[holding.device].release()

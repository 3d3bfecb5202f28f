"""Waits for the memory of replicas that are gone: a driver gives it back later than a process ends.

Each device with something outstanding has one task, which ends when the memory is seen to be back,
when the device cannot be read any more, or when it has waited long enough; in that case the device
is noted as owing it, and used on. Invariant: each holding that was begun is handed to ``release``
once, cancellation included.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from orchd.runner.footprint import format_gib
from orchd.runner.ledger import Holding
from orchd.runner.snapshot import Snapshot

log = logging.getLogger(__name__)

RETURN_TIMEOUT_S = 10.0
RESAMPLE_S = 0.2


@dataclass(slots=True, eq=False)
class _Outstanding:
    holdings: list[Holding]
    target_bytes: int
    deadline_s: float
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Owed:
    """What a device has not given back in time."""

    target_bytes: int
    reason: str


class Returns:
    """``fresh`` samples the devices, ``release`` ends a reservation."""

    def __init__(
        self,
        fresh: Callable[[], Awaitable[Snapshot]],
        release: Callable[[Holding], None],
        timeout_s: float = RETURN_TIMEOUT_S,
        resample_s: float = RESAMPLE_S,
    ) -> None:
        self._fresh = fresh
        self._release = release
        self._timeout_s = timeout_s
        self._resample_s = resample_s
        self._outstanding: dict[str, _Outstanding] = {}
        self.owed: dict[str, Owed] = {}
        """By device; an entry goes once the memory is back after all."""

    def begin(self, holding: Holding, target_bytes: int) -> None:
        """Its process is gone; its memory is back once no more than that is in use."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._timeout_s
        device = holding.device
        outstanding = self._outstanding.get(device)
        if outstanding is not None:
            outstanding.holdings.append(holding)
            outstanding.deadline_s = deadline_s
            if not holding.is_loading:
                sunk_bytes = outstanding.target_bytes - (holding.rise_bytes or 0)
                target_bytes = max(min(target_bytes, sunk_bytes), 0)
            # Else its target is where it began, from which was taken off what else has gone since;
            # its rise has that in it for as long as it has not come back.
            outstanding.target_bytes = target_bytes
            return
        outstanding = _Outstanding([holding], target_bytes, deadline_s)
        self._outstanding[device] = outstanding
        outstanding.task = loop.create_task(
            self._wait(device, outstanding), name=f"wait for memory of {device}"
        )

    def is_outstanding(self, device: str) -> bool:
        return device in self._outstanding

    async def settle(self, device: str) -> None:
        """Wait until nothing is outstanding on the device."""
        while await self.settle_one((device,)):
            pass

    async def settle_one(self, devices: Collection[str]) -> bool:
        """Wait until one of the devices has nothing outstanding; False where none has."""
        tasks = [
            outstanding.task
            for device, outstanding in self._outstanding.items()
            if device in devices and outstanding.task is not None
        ]
        if tasks:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return bool(tasks)

    async def stop(self) -> None:
        """Wait for nothing any more; every reservation ends now."""
        tasks = []
        for device, outstanding in list(self._outstanding.items()):
            assert outstanding.task is not None
            outstanding.task.cancel()
            tasks.append(outstanding.task)
            # Here and not in the task, which may be cancelled before its first step.
            self._finish(device, outstanding)
        if tasks:
            await asyncio.wait(tasks)

    def look(self, snapshot: Snapshot) -> None:
        """Strike out what has come back after all."""
        for device, owed in list(self.owed.items()):
            gpu = snapshot.find(device)
            if gpu is not None and gpu.used_bytes <= owed.target_bytes:
                del self.owed[device]
                log.info("gave its memory back after all device=%s", device)

    async def _wait(self, device: str, outstanding: _Outstanding) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                gpu = (await self._fresh()).find(device)
                if gpu is None or gpu.used_bytes <= outstanding.target_bytes:
                    return
                if loop.time() >= outstanding.deadline_s:
                    missing_bytes = gpu.used_bytes - outstanding.target_bytes
                    self._note(device, outstanding, missing_bytes)
                    return
                # A driver tells nobody when it has freed memory: asking again is all there is.
                await asyncio.sleep(self._resample_s)
        finally:
            self._finish(device, outstanding)

    def _note(self, device: str, outstanding: _Outstanding, missing_bytes: int) -> None:
        names = ", ".join(holding.replica_id for holding in outstanding.holdings)
        reason = f"did not give back {format_gib(missing_bytes)} of {names}, which is gone"
        self.owed[device] = Owed(outstanding.target_bytes, reason)
        log.warning("%s device=%s", reason, device)

    def _finish(self, device: str, outstanding: _Outstanding) -> None:
        if self._outstanding.get(device) is outstanding:
            del self._outstanding[device]
            for holding in outstanding.holdings:
                self._release(holding)

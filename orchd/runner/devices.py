"""Watches the GPUs: one thread that asks NVML, one snapshot that anyone on the loop may read.

NVML is asked every ``interval_s`` and when a fresh answer is wanted; it may block for seconds or
for ever without the loop noticing. What changes is logged once. Invariant: only ``_publish`` sets
``snapshot``, and who watches is told of it in the same loop turn, in the order of watching.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from orchd.runner.slow_call import SlowCall
from orchd.runner.snapshot import (
    LOST_SAMPLES,
    UNSEEN,
    Gpu,
    NoReading,
    Quarantined,
    Reading,
    Snapshot,
    follow,
)

log = logging.getLogger(__name__)

INTERVAL_S = 2.0
ANSWER_TIMEOUT_S = 5.0
"""How long NVML may take before it is said not to answer; it is still waited for."""


class DeviceMonitor:
    """Owns the reading of the GPUs. ``read`` blocks, and answers with what NVML said."""

    def __init__(
        self,
        read: Callable[[], Reading | NoReading],
        interval_s: float = INTERVAL_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._call = SlowCall("read GPUs", read)
        self._interval_s = interval_s
        self._timeout_s = answer_timeout_s
        self._watchers: list[Callable[[Snapshot], None]] = []
        self._begun = 0
        self._wanted = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[Snapshot]]] = []
        self._task: asyncio.Task[None] | None = None
        self.snapshot = UNSEEN

    @property
    def has_read(self) -> bool:
        """False until NVML has answered, or not answered, for the first time."""
        return self.snapshot is not UNSEEN

    def watch(self, watcher: Callable[[Snapshot], None]) -> None:
        """Tell it each new snapshot."""
        self._watchers.append(watcher)

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="watch GPUs")

    async def stop(self) -> None:
        """Ask no more; who still waits for a fresh snapshot is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for _, waiting in self._waiting:
            waiting.cancel()

    async def fresh(self) -> Snapshot:
        """The GPUs as they are now: read after this call, not before. May take ten seconds."""
        self._wanted.set()
        return await self.next()

    async def next(self) -> Snapshot:
        """The snapshot after this one, whenever it comes by itself."""
        waiting: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._begun + 1, waiting))
        return await waiting

    async def _run(self) -> None:
        while True:
            self._wanted.clear()
            self._begun += 1
            number = self._begun
            self._publish(await self._read())
            for wanted, waiting in self._waiting:
                if wanted <= number and not waiting.done():
                    waiting.set_result(self.snapshot)
            self._waiting = [entry for entry in self._waiting if not entry[1].done()]
            is_doubtful = any(
                0 < gpu.lost_samples < LOST_SAMPLES for gpu in self.snapshot.quarantined
            )
            with contextlib.suppress(TimeoutError):
                # A loss that nobody has confirmed yet is not left open for long.
                async with asyncio.timeout(self._interval_s / (4 if is_doubtful else 1)):
                    await self._wanted.wait()

    async def _read(self) -> Reading | NoReading:
        try:
            if self._call.is_under_way:
                # Given up earlier: what it answers was true when it was asked.
                await self._call.answer(self._timeout_s)
            return await self._call.answer(self._timeout_s)
        except TimeoutError:
            return NoReading(f"the NVIDIA driver did not answer for {self._timeout_s:g} s")
        except Exception:
            log.exception("reading the GPUs failed")
            return NoReading("the GPUs cannot be read: a bug in orchd")

    def _publish(self, reading: Reading | NoReading) -> None:
        before, self.snapshot = self.snapshot, follow(self.snapshot, reading)
        _log_changes(before, self.snapshot)
        for watcher in self._watchers:
            try:
                watcher(self.snapshot)
            except Exception:
                # Whoever waits for a fresh snapshot must not wait for ever.
                log.exception("a watcher of the GPUs failed")


def _log_changes(before: Snapshot, after: Snapshot) -> None:
    if after.reason is not None:
        if after.reason != before.reason:
            # A machine without a driver is no news; one that had a driver is.
            log.log(
                logging.INFO if before is UNSEEN else logging.WARNING,
                *("cannot see any GPU: %s", after.reason),
            )
        return
    if before.reason is not None and before is not UNSEEN:
        log.info("can see the GPUs again")
    were = {gpu.uuid: gpu for gpu in before.each()}
    for gpu in after.each():
        match gpu, were.get(gpu.uuid):
            case Quarantined(), Quarantined(reason=told) if told == gpu.reason:
                pass
            case Quarantined(), _:
                log.warning("quarantined GPU %d device=%s: %s", gpu.index, gpu.uuid, gpu.reason)
            case Gpu(), Gpu():
                pass
            case Gpu(), Quarantined() if before.reason is None:
                log.info("took GPU %d back into use device=%s", gpu.index, gpu.uuid)
            case Gpu(), None:
                log.info("found GPU %d device=%s: %s", gpu.index, gpu.uuid, gpu.name)

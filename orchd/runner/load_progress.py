"""Judges whether an engine that loads makes progress, from what can be seen of it outside.

A slow disk and a hang look alike to a fixed deadline. What counts as progress: a byte of output, a
health that was not seen before, and more memory than ever, of the host or of the device. Highest
marks, not changes: an engine that swings between two states for ever makes no progress.

One that computes may be compiling, which takes minutes without a word; or it may spin for ever. So
that its processes are busy is believed too, but not without an end.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_STEP_BYTES = 1024 * 1024
"""Less is an allocator's own unrest."""
BUSY_CORES = 0.25
"""More than who waits for something, and asks for it again and again, computes with."""
BUSY_PATIENCE = 10
"""For so many times as long as it may stand still, it may do nothing but compute."""
_SPAN_S = 1.0
"""Over so long it is looked at how much it computes: the kernel counts in hundredths."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What can be seen of it at one moment."""

    health: str
    """How it answers: one of a few, never a text that an engine makes up."""
    output_bytes: int
    host_bytes: int
    """Resident, of all its processes."""
    device_bytes: int
    """In use on its GPU; 0 on the CPU."""
    computed_s: float = 0.0
    """CPU time, of all its processes."""


class LoadProgress:
    """One load."""

    def __init__(self, now_s: float) -> None:
        self._progressed_s = self._busy_s = self._span_s = now_s
        self._computed_s: float | None = None
        self._healths: set[str] = set()
        self._output_bytes = 0
        self._host_bytes = 0
        self._device_bytes = 0

    def see(self, signs: Signs, now_s: float) -> None:
        """Take note of what is seen now."""
        self._see_computing(signs.computed_s, now_s)
        has_risen = (
            signs.output_bytes > self._output_bytes
            or signs.host_bytes >= self._host_bytes + MEMORY_STEP_BYTES
            or signs.device_bytes >= self._device_bytes + MEMORY_STEP_BYTES
        )
        if not has_risen and signs.health in self._healths:
            return
        self._progressed_s = now_s
        self._healths.add(signs.health)
        self._output_bytes = signs.output_bytes
        self._host_bytes = max(self._host_bytes, signs.host_bytes)
        self._device_bytes = max(self._device_bytes, signs.device_bytes)

    def has_stalled(self, now_s: float, stall_s: float) -> bool:
        """Whether it has stood still for longer than ``stall_s``."""
        idle_s = now_s - self._progressed_s
        return idle_s > stall_s and (
            now_s - self._busy_s > stall_s or idle_s > BUSY_PATIENCE * stall_s
        )

    def _see_computing(self, computed_s: float, now_s: float) -> None:
        if self._computed_s is None:
            self._computed_s = computed_s
        span_s = now_s - self._span_s
        if span_s < _SPAN_S:
            return
        # Of a process that is gone, what it computed is told no more until it is waited for.
        if computed_s - self._computed_s >= BUSY_CORES * span_s:
            self._busy_s = now_s
        self._span_s, self._computed_s = now_s, computed_s

"""Judges whether an engine that loads makes progress, from what can be seen of it outside.

A slow disk and a hang look alike to a fixed deadline. What counts as progress: a byte of output, a
health that was not seen before, and more memory than ever, of the host or of the device. Highest
marks, not changes: an engine that swings between two states for ever makes no progress.
"""

from __future__ import annotations

from dataclasses import dataclass

MEMORY_STEP_BYTES = 1024 * 1024
"""Less is an allocator's own unrest."""


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


class LoadProgress:
    """One load."""

    def __init__(self, now_s: float) -> None:
        self._progressed_s = now_s
        self._healths: set[str] = set()
        self._output_bytes = 0
        self._host_bytes = 0
        self._device_bytes = 0

    def see(self, signs: Signs, now_s: float) -> None:
        """Take note of what is seen now."""
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

    def idle_s(self, now_s: float) -> float:
        """How long there has been no progress."""
        return now_s - self._progressed_s

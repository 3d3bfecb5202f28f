"""Tells from the measured service rate when a task starts and when a place in the queue is free.

Until a first task has been served there is nothing to reckon from: a prediction is None, and a
backoff the smallest that HTTP can say, one second.
"""

from __future__ import annotations

_WEIGHT = 0.2
"""Share of the newest task in the running mean: about the last ten tasks count."""
UNMEASURED_BACKOFF_S = 1.0


class Pace:
    """How long one of a pool's tasks keeps its slot, as a running mean in seconds."""

    def __init__(self) -> None:
        self._mean_s: float | None = None

    def observe(self, held_s: float) -> None:
        """A slot was given back after that time."""
        if self._mean_s is None:
            self._mean_s = held_s
        else:
            self._mean_s += _WEIGHT * (held_s - self._mean_s)

    def predict_start_s(self, before: int, slots: int) -> float | None:
        """When a task starts that has ``before`` others before it and no slot free."""
        if self._mean_s is None or slots == 0:
            return None
        return self._mean_s * (before + 1) / slots

    def backoff_s(self, before: int, slots: int) -> float:
        """When a place in the queue is free, which it is once ``before`` others and one started."""
        return self.predict_start_s(before, slots) or UNMEASURED_BACKOFF_S

"""Tells from the measured service rate when a task starts and when a place in the queue is free.

Until a first task has been served there is nothing to reckon from: a prediction is None, and a
backoff the smallest that HTTP can say, one second.
"""

from __future__ import annotations

from collections.abc import Sequence

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

    def predict_start_s(self, before: int, slots: int, held_s: Sequence[float]) -> float | None:
        """When a task starts that has ``before`` others before it and no slot free.

        ``held_s`` is how long each busy slot has been held so far: where that is longer than the
        tasks of late took, today's tasks take longer.
        """
        if self._mean_s is None or slots == 0:
            return None
        return max(self._mean_s, _mean(held_s)) * (before + 1) / slots

    def backoff_s(self, before: int, slots: int, held_s: Sequence[float]) -> float:
        """When a place in the queue is free, which it is once ``before`` others and one started."""
        start_s = self.predict_start_s(before, slots, held_s)
        if start_s is not None:
            return start_s or UNMEASURED_BACKOFF_S
        return max(UNMEASURED_BACKOFF_S, _mean(held_s) * (before + 1) / max(slots, 1))


def _mean(spans_s: Sequence[float]) -> float:
    return sum(spans_s) / len(spans_s) if spans_s else 0.0

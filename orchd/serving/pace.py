"""Tells from the measured service time when a task will start and when a refused one may return.

Until a first task has been served there is nothing to reckon from: a prediction is None and a
backoff the smallest that HTTP can say, one second.
"""

from __future__ import annotations

_WEIGHT = 0.2
"""Share of the newest task in the running mean: about the last ten tasks count."""
UNMEASURED_BACKOFF_S = 1.0


class Pace:
    """Service time of one pool's tasks: seconds that one of them keeps a slot."""

    def __init__(self) -> None:
        self._mean_s: float | None = None

    def observe(self, service_s: float) -> None:
        """A task has given its slot back after that time."""
        if self._mean_s is None:
            self._mean_s = service_s
        else:
            self._mean_s += _WEIGHT * (service_s - self._mean_s)

    def predict_start_s(self, position: int, slots: int) -> float | None:
        """When a task starts that has ``position`` others before it and no slot free."""
        if self._mean_s is None or slots == 0:
            return None
        return self._mean_s * (position + 1) / slots

    def backoff_s(self, slots: int) -> float:
        """When the queue has moved on by one: one place is free again."""
        return self.predict_start_s(0, slots) or UNMEASURED_BACKOFF_S

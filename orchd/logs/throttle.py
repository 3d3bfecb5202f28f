"""Counts what repeats, and says when to tell of it: the first at once, then once a span."""

from __future__ import annotations

SPAN_S = 10.0
"""Whoever retries in a loop gets one line of the log for each of these."""


class Throttle:
    """One kind of event; ``span_s`` is the least time between two tellings."""

    def __init__(self, span_s: float = SPAN_S) -> None:
        self._span_s = span_s
        self._untold = 0
        self._quiet_until_s: float | None = None

    def note(self, now_s: float) -> int:
        """It has happened again; how many to tell of now, 0 for none."""
        self._untold += 1
        if self._quiet_until_s is not None and now_s < self._quiet_until_s:
            return 0
        return self.take_rest(now_s)

    def take_rest(self, now_s: float) -> int:
        """How many have not been told of; they are, now."""
        untold, self._untold = self._untold, 0
        if untold:
            self._quiet_until_s = now_s + self._span_s
        return untold

    @property
    def due_s(self) -> float | None:
        """When to tell of the rest; None while all is told."""
        return self._quiet_until_s if self._untold else None

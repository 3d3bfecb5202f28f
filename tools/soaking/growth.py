"""Whether a figure grows from rest to rest. Pure.

What is read at a rest wavers, and the first rests come before all has been used once. So the middle
of the last third is held against the most of the third before: what grows without an end passes
that, however slowly, if only the soak is long enough; what wavers does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

LEAST_READINGS = 6


def has_grown(readings: Sequence[float], slack: float) -> bool:
    """Whether the last third lies above the middle one, and by more than the slack."""
    third = len(readings) // 3
    if len(readings) < LEAST_READINGS:
        return False
    middle, last = readings[third:-third], readings[-third:]
    return median(last) > max(middle) + slack

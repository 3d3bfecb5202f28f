"""Sums over samples, and what the kernel's files say as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


def find_percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent of them do not exceed (the nearest rank)."""
    assert samples and 0 < percent <= 100
    return sorted(samples)[math.ceil(len(samples) * percent / 100) - 1]


@dataclass(frozen=True, slots=True)
class MachineTicks:
    """What all processors did since the boot, in the kernel's ticks."""

    steal: int
    busy: int
    total: int


def read_machine_ticks(stat: str) -> MachineTicks:
    """From /proc/stat; proc_stat(5): user nice system idle iowait irq softirq steal guest
    guest_nice, where the guests' time is in that of user and nice already."""
    name, *fields = stat.partition("\n")[0].split()
    assert name == "cpu", name
    ticks = [int(field) for field in fields[:8]]
    steal, total = ticks[7], sum(ticks)
    return MachineTicks(steal, total - ticks[3] - ticks[4] - steal, total)


def share_pct(part: int, total: int) -> float:
    """Of a span without a tick nothing is known, and 0 said."""
    return 100.0 * part / total if total else 0.0


def read_kib(text: str, name: str) -> int:
    """The value of a line such as ``VmRSS:   1234 kB``."""
    line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])

"""What the kernel tells of processes and of the machine: CPU time, memory, steal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.figures import MachineTicks, read_kib, read_machine_ticks, share_pct

_CPUCLOCK_SCHED = 2


def read_cpu_ns(pid: int) -> int:
    """CPU time of a process so far, all its threads, those that have ended too.

    By the clock that clock_getcpuclockid(3) names: it counts nanoseconds, where /proc/PID/stat
    counts hundredths of a second.
    """
    return time.clock_gettime_ns(~pid << 3 | _CPUCLOCK_SCHED)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process holds of the machine's memory, and its share where pages are shared."""

    rss_mib: float
    pss_mib: float


def read_memory(pid: int) -> Memory:
    proc = Path(f"/proc/{pid}")
    rss_kib = read_kib(proc.joinpath("status").read_text(), "VmRSS")
    return Memory(rss_kib / 1024, read_kib(proc.joinpath("smaps_rollup").read_text(), "Pss") / 1024)


def read_machine() -> MachineTicks:
    return read_machine_ticks(Path("/proc/stat").read_text())


@dataclass(slots=True)
class Noise:
    """How much of the processors others had during a measurement."""

    before_pct: float = 0.0
    """What this machine worked on just before: on a busy one the figures are less worth."""
    steal_pct: float = 0.0
    """What the host gave to other guests."""
    busy_pct: float = 0.0
    """What this machine worked on, the measurement itself included."""
    span_s: float = 0.0
    """For how long."""


@contextlib.contextmanager
def watch_noise(look_s: float) -> Iterator[Noise]:
    """Looks for so long at the machine as it is; the rest is filled in when the block ends."""
    noise, first = Noise(), read_machine()
    time.sleep(look_s)
    before, begun_s = read_machine(), time.monotonic()
    noise.before_pct = share_pct(before.busy - first.busy, before.total - first.total)
    try:
        yield noise
    finally:
        after = read_machine()
        total = after.total - before.total
        noise.span_s = time.monotonic() - begun_s
        noise.steal_pct = share_pct(after.steal - before.steal, total)
        noise.busy_pct = share_pct(after.busy - before.busy, total)

"""Tells what a process and its descendants take of this machine's CPU and memory.

The kernel tells the time that a process has computed so far; its share is that of a span, so the
span's begin is noted here every few seconds, and not by those who ask: two who ask in turn would
cut each other's span short. To ask is one small read of /proc, which never waits for a disk.

Source: proc_pid_stat(5).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL_S = 2.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class CpuUse:
    """What a process takes now."""

    share: float
    """Of all cores that this daemon may compute on, 0 to 1, over the last few seconds."""
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessTimes:
    """What the kernel tells of a process. Instants are seconds since the machine's boot."""

    started_s: float
    computed_s: float
    resident_bytes: int


@dataclass(frozen=True, slots=True)
class _Mark:
    """How far a process was."""

    at_s: float
    computed_s: float


def read_times(pid: int) -> ProcessTimes | None:
    """None where there is no such process. Children that it has waited for are in its time."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # Behind the name, which may hold anything; the first field is the third of the manual.
    fields = stat.rpartition(b")")[2].split()
    ticks = sum(int(field) for field in fields[11:15])
    started, resident = int(fields[19]), int(fields[21])
    return ProcessTimes(started / _TICKS_PER_S, ticks / _TICKS_PER_S, resident * _PAGE_BYTES)


def read_clock() -> float:
    """The clock of ``started_s``."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class CpuWatch:
    """``list_pids`` tells whom to watch, ``list_tree`` a process and its descendants; that is asked
    from time to time only. The timer is owned here, from ``start`` to ``stop``."""

    def __init__(
        self,
        list_pids: Callable[[], Iterable[int]],
        list_tree: Callable[[int], Sequence[int]] = lambda pid: (pid,),
        interval_s: float = INTERVAL_S,
        read: Callable[[int], ProcessTimes | None] = read_times,
        clock: Callable[[], float] = read_clock,
    ) -> None:
        self._list_pids = list_pids
        self._list_tree = list_tree
        self._trees: dict[int, Sequence[int]] = {}
        self._interval_s = interval_s
        self._read = read
        self._clock = clock
        self._cores = len(os.sched_getaffinity(0))
        self._marks: dict[tuple[int, float], deque[_Mark]] = {}
        """By pid and start, since pids come again: the last mark, and the one before it."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Note how far they are, now and from time to time."""
        self.look()
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self.start)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Note how far each is, and forget those that are not watched any more."""
        before, self._marks, self._trees = self._marks, {}, {}
        for pid in self._list_pids():
            self._trees[pid] = self._list_tree(pid)
            if (told := self._read_tree(pid)) is not None:
                key = (pid, told.started_s)
                marks = self._marks[key] = before.get(key, deque(maxlen=2))
                marks.append(_Mark(self._clock(), told.computed_s))

    def use_of(self, pid: int) -> CpuUse | None:
        """What a process takes with its descendants; None where there is no such process."""
        told = self._read_tree(pid)
        if told is None:
            return None
        # The older one, so that the span is never shorter than an interval.
        marks = self._marks.get((pid, told.started_s))
        begin = _Mark(told.started_s, 0.0)
        if marks is not None and len(marks) == marks.maxlen:
            begin = marks[0]
        # The kernel counts in ticks: a process that has just begun can seem to be ahead of time.
        span_s = max(self._clock() - begin.at_s, 1 / _TICKS_PER_S)
        share = (told.computed_s - begin.computed_s) / span_s / self._cores
        # A child that is gone takes its time with it until its parent has waited for it.
        return CpuUse(min(max(share, 0.0), 1.0), told.resident_bytes)

    def _read_tree(self, pid: int) -> ProcessTimes | None:
        """All of them together, from the first one's start on."""
        first = self._read(pid)
        if first is None:
            return None
        others = (self._read(other) for other in self._trees.get(pid, ())[1:])
        all_of_them = [first, *(told for told in others if told is not None)]
        return ProcessTimes(
            first.started_s,
            sum(told.computed_s for told in all_of_them),
            sum(told.resident_bytes for told in all_of_them),
        )

"""Finds what lives of an engine, and ends it: part of the guardian, which runs alone.

A process is known by its number and the moment it started (proc_pid_stat(5), field 22), for numbers
come round again. It is an engine's if its session is, or if its environment holds the engine's
mark: that finds what has left the session too, but not what writes over its environment.

Invariant: nothing is killed whose identity is not certain at that moment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = b"ORCHD_ENGINE="
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Process:
    """One process of /proc."""

    pid: int
    start: int
    """In clock ticks since the boot; together with the pid no other's."""
    session: int
    is_alive: bool
    """False for a zombie: it holds nothing any more but its number."""


def read_process(pid: int) -> Process | None:
    """The process of that number, None where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # Behind the name, which may hold anything: state, ppid, pgrp, session, ...
    fields = stat.rpartition(b")")[2].split()
    # The first thread of a process can be a zombie while others work on.
    is_alive = fields[0] not in (b"Z", b"X") or int(fields[17]) > 1
    return Process(pid, int(fields[19]), int(fields[3]), is_alive)


def is_there(pid: int, start: int) -> bool:
    """Whether that very process lives."""
    process = read_process(pid)
    return process is not None and process.is_alive and process.start == start


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return b"\0" + _VARIABLE + mark in b"\0" + environ


def find_members(sessions: Mapping[int, int]) -> list[Process]:
    """What lives of these sessions (number → start of the leader), told of by a daemon just now.

    Nothing is read that waits for another process: an environment can, for one that hangs in a
    driver.
    """
    there = _list_processes()
    starts = {process.pid: process.start for process in there}
    return [
        process
        for process in there
        if process.is_alive
        and (leader_start := sessions.get(process.session)) is not None
        and starts.get(process.session, leader_start) == leader_start
    ]


def find_remains(sessions: Mapping[int, int], mark: bytes, *, is_fresh: bool) -> list[Process]:
    """What lives of these sessions (number → start of the leader) or bears the mark.

    Where the leader is gone its number keeps its meaning only as long as a member lives, and may
    since have become that of somebody's background service. So unless the sessions were told of by
    a daemon that lived just now (fresh), one without its leader needs a member with the mark.
    """
    there = _list_processes()
    starts = {process.pid: process.start for process in there}
    marked = {p.pid for p in there if p.is_alive and _has_mark(p.pid, mark)}
    proven = {p.session for p in there if p.pid in marked}
    ours = {
        number
        for number, start in sessions.items()
        if starts.get(number, start) == start and (is_fresh or number in starts or number in proven)
    }
    return [p for p in there if p.is_alive and (p.session in ours or p.pid in marked)]


def _list_processes() -> list[Process]:
    numbers = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [process for pid in numbers if (process := read_process(pid)) is not None]


def kill(process: Process) -> None:
    """SIGKILL for it, and for nobody who has its number by now."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    # The handle is of one process for ever; if that has the right start, it is the right one.
    with contextlib.suppress(OSError):
        if is_there(process.pid, process.start):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
    os.close(handle)


def kill_all(find: Callable[[], list[Process]], within_s: float) -> tuple[list[int], bool]:
    """Kill what is found until nothing is; the pids, and whether it came to that in time."""
    killed: dict[int, None] = {}
    deadline_s = time.monotonic() + within_s
    while found := find():
        if time.monotonic() > deadline_s:
            return list(killed), False
        for process in found:
            kill(process)
            killed[process.pid] = None
        time.sleep(_PAUSE_S)
    return list(killed), True

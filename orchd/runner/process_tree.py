"""A process and its descendants, what they hold of the host's memory, and how much they compute.

Source: proc_pid_task(5), ``children``; proc_pid_statm(5); proc_pid_stat(5). None of
these files blocks; a process that is gone holds nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_MOST = 1024
"""Processes that are looked at; no engine has as many."""


def list_tree(pid: int) -> list[int]:
    """The process first, then its descendants as far as the kernel tells them."""
    tree, known = [pid], {pid}
    for parent in tree:  # which grows meanwhile
        for child in _list_children(parent):
            if child not in known and len(tree) < _MOST:
                known.add(child)
                tree.append(child)
    return tree


def read_resident_bytes(pid: int) -> int:
    """What the process and its descendants have in memory, mapped files included."""
    return sum(_read_resident_bytes(each) for each in list_tree(pid))


def read_computed_s(pid: int) -> float:
    """How long the process, its descendants and those that they have waited for have computed."""
    return sum(_read_ticks(each) for each in list_tree(pid)) / _TICKS_PER_S


def _list_children(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []
    return [int(child) for thread in threads for child in _read_children(thread)]


def _read_children(thread: Path) -> list[str]:
    try:
        return (thread / "children").read_text().split()
    except OSError:
        return []


def _read_resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _read_ticks(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    # Behind the name, which may hold anything: utime, stime, cutime and cstime.
    return sum(map(int, stat.rpartition(b")")[2].split()[11:15]))

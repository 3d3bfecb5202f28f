"""What the kernel says of the daemon and of all that it has started: Linux's /proc, read whole."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from soaking.world import MARK

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Process:
    pid: int
    state: str
    parent: int
    session: int

    @property
    def lives(self) -> bool:
        return self.state not in "ZX"


def list_processes() -> list[Process]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # proc_pid_stat(5): behind the name in parentheses: state, ppid, pgrp, session.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found.append(Process(int(entry.name), fields[0], int(fields[1]), int(fields[3])))
    return found


def list_marked(folder: Path) -> list[Process]:
    """The living processes that are of an engine of this soak."""
    mark = f"{MARK}={folder}".encode()
    return [p for p in list_processes() if p.lives and mark in _read_environ(p.pid).split(b"\0")]


def _read_environ(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def list_files(pid: int) -> list[str]:
    """What it has open, by the names of the links."""
    links = []
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(entry.readlink()))
    return links


def count_kinds(links: list[str]) -> Counter[str]:
    """Without the numbers that tell one socket or pipe from another."""
    return Counter(re.sub(r"\[\d+\]", "", link) for link in links)


def count_locked_ports(pid: int) -> int:
    """Ports that the daemon keeps for its engines."""
    own = set(list_files(pid))
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return sum(row[7:9] == ["@orchd", "port"] and f"socket:[{row[6]}]" in own for row in rows)


def read_rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * _PAGE_BYTES / (1 << 20)


def count_threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def list_zombies(parent: int) -> Iterator[int]:
    yield from (p.pid for p in list_processes() if p.parent == parent and not p.lives)

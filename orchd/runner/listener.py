"""Finds out whose socket listens on a port: an engine's own, or a program's that took its place.

The kernel knows (proc_net(5): a listening socket's inode; proc_pid_fd(5): who holds it). Where it
does not tell, since the holder is another user's or stands behind a network namespace, the key has
to prove who answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from orchd.runner.process_tree import list_tree

_LISTENING = "0A"
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def is_own(port: int, engine_pid: int) -> bool:
    """True where the engine, or a process that it has started, is known to listen on the port."""
    return _holds_any(list_tree(engine_pid), _find_sockets(port))


def is_strange(port: int, engine_pid: int) -> bool:
    """True where a process that is not of that engine is known to listen on the port.

    Looks at every descriptor of this user: it may take a while, and blocks.
    """
    if is_own(port, engine_pid):
        return False
    others = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    strangers = (pid for pid in others if not _is_of_session(pid, engine_pid))
    return _holds_any(strangers, _find_sockets(port))


def _find_sockets(port: int) -> set[str]:
    """Those that listen on the port, as the links of descriptors name them."""
    return {f"socket:[{inode}]" for table in _TABLES for inode in _find_inodes(table, port)}


def _find_inodes(table: str, port: int) -> list[str]:
    """The inodes of the sockets that listen on the port, whatever their address."""
    try:
        lines = Path(table).read_text().splitlines()[1:]
    except OSError:
        return []
    rows = (line.split() for line in lines)
    return [
        row[9]
        for row in rows
        if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port
    ]


def _holds_any(pids: Iterable[int], sockets: set[str]) -> bool:
    return bool(sockets) and any(
        _read_link(fd) in sockets for pid in pids for fd in _list_descriptors(pid)
    )


def _list_descriptors(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def _read_link(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""


def _is_of_session(pid: int, session: int) -> bool:
    try:
        return os.getsid(pid) == session
    except OSError:
        return False

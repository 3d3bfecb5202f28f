"""What a guardian keeps on disk of a daemon's engines, for one that comes after both are gone.

One file for each daemon, called ``DAEMON_PID-DAEMON_START-MARK.json``: where all else in it is
damaged, that still tells whether the daemon lives, and by which mark its engines are found.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from orchd.runner.remains import read_process

_NAME = re.compile(r"([1-9][0-9]{0,9})-([0-9]{1,20})-([0-9a-f]{32})\.(json|draft)")
_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Name:
    """What a file's name says."""

    daemon_pid: int
    daemon_start: int
    mark: str
    is_draft: bool = False

    def __str__(self) -> str:
        kind = "draft" if self.is_draft else "json"
        return f"{self.daemon_pid}-{self.daemon_start}-{self.mark}.{kind}"


def read_name(text: str) -> Name | None:
    """None for a file that is none of ours."""
    found = _NAME.fullmatch(text)
    return found and Name(int(found[1]), int(found[2]), found[3], found[4] == "draft")


@dataclass(frozen=True, slots=True)
class Record:
    """What a file says beside its name."""

    boot: str
    pid_namespace: str
    """Numbers mean nothing in another one."""
    guardian: tuple[int, int]
    """Its pid and start."""
    sessions: Mapping[int, int]
    """Of each engine that runs: its pid, and when it started."""


def make_record(sessions: Mapping[int, int]) -> Record:
    """Ours, as of now. Raises OSError where /proc cannot be read."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    own = read_process(os.getpid())
    if own is None:
        raise FileNotFoundError("/proc does not show this process")
    return Record(boot, str(Path("/proc/self/ns/pid").readlink()), (own.pid, own.start), sessions)


def write_record(path: Path, record: Record) -> None:
    """Put it in its place whole, for the owner's eyes only. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    # Not synced: after a power cut there is nothing left to be found.
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(asdict(record), file)
    draft.replace(path)


def read_record(path: Path) -> Record | None:
    """The record, None where the file is damaged. Raises OSError."""
    # Without O_NONBLOCK, opening a FIFO would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(_BYTES_MAX)
    try:
        told = json.loads(content)
        pid, start = told["guardian"]
        sessions = {int(number): int(start) for number, start in told["sessions"].items()}
        return Record(
            *(str(told["boot"]), str(told["pid_namespace"]), (int(pid), int(start)), sessions)
        )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None

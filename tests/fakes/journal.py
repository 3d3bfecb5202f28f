"""What the fake engines did, in one file for all of them: who, when, and what.

Each writes a line at a time, in one write at the file's end, so that many may share it. The time is
CLOCK_MONOTONIC's, the same for all processes of a machine.
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One line."""

    at_s: float
    pid: int
    text: str


def write_entry(path: str, text: str) -> None:
    """Nothing, where there is no path. A full disk keeps no witness from speaking: half a line
    would spoil another's."""
    if path:
        _, most_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        with Path(path).open("a") as journal:
            journal.write(f"{time.monotonic():.6f} {os.getpid()} {text}\n")


def read_journal(path: Path) -> list[Entry]:
    """All that is in it, in the order of the file; nothing, where nobody has begun it."""
    return JournalReader(path).read_new()


class JournalReader:
    """Goes on where it has stopped; a line that is half written is left for the next time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read_new(self) -> list[Entry]:
        """What has come since the last time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as journal:
            journal.seek(self._offset)
            lines = journal.read().split(b"\n")[:-1]
        self._offset += sum(len(line) + 1 for line in lines)
        fields = (line.decode().split(" ", 2) for line in lines)
        return [Entry(float(at_s), int(pid), text) for at_s, pid, text in fields]

"""What the fake engines did, in one file for all of them: who, when, and what.

Each writes a line at a time, in one write at the file's end, so that many may share it. The time is
CLOCK_MONOTONIC's, the same for all processes of a machine.
"""

from __future__ import annotations

import os
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
    """Nothing, where there is no path."""
    if path:
        with Path(path).open("a") as journal:
            journal.write(f"{time.monotonic():.6f} {os.getpid()} {text}\n")


def read_journal(path: Path) -> list[Entry]:
    """All that is in it, in the order of the file; nothing, where nobody has begun it."""
    if not path.exists():
        return []
    lines = (line.split(" ", 2) for line in path.read_text().splitlines())
    return [Entry(float(at_s), int(pid), text) for at_s, pid, text in lines]

"""What the engines' journal can be relied on for."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from tests.fakes.journal import read_journal, write_entry

ROOT = Path(__file__).resolve().parents[3]


def test_a_full_disk_tears_no_line(tmp_path: Path) -> None:
    """A line that is written in part would hide the one that another engine writes behind it."""
    path = tmp_path / "journal"
    program = f"from tests.fakes.journal import write_entry; write_entry({str(path)!r}, 'begin #1')"
    _, most_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)
    with subprocess.Popen(
        [sys.executable, "-c", "input(); " + program], cwd=ROOT, stdin=subprocess.PIPE
    ) as engine:
        resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (10, most_bytes))
        engine.communicate(b"\n", timeout=60)
    write_entry(str(path), "begin #2")
    assert [entry.text for entry in read_journal(path)] == ["begin #1", "begin #2"]

"""Runs the quickstart as a process of its own, with a stand-in for the daemon."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("stand_in_daemon.py")
ANSWER = " Paris, naïve 東京\n!\n"
"""What the stand-in answers, as --once prints it."""
TIMEOUT_S = 60.0

PROGRAM = f"""
import sys
from pathlib import Path
from demo_run import Parts
from quickstart import main
orchd = [sys.executable, {str(STAND_IN)!r}]
sys.exit(main(sys.argv[1:], Parts(orchd, lambda cache: Path("/models/tiny.gguf"))))
"""


@dataclass(slots=True)
class Quickstart:
    """Starts quickstarts that are ended with the test, whatever becomes of it."""

    home: Path
    port: int | None
    """None: the quickstart's own choice."""
    environ: dict[str, str]
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        port = [] if self.port is None else ["--port", str(self.port)]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *port, *arguments],
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    def run(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **environ)
        out, err = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, out, err

    def start_and_stay(self, **environ: str) -> tuple[subprocess.Popen[str], list[str]]:
        """A quickstart that has answered and stays up, and its curl lines."""
        process = self.start(**environ)
        read_until(process, "stays up until Ctrl-C")
        assert process.stdout is not None
        lines: list[str] = []
        while len(lines) < 4:
            line = process.stdout.readline()
            assert line, "stdout ended before the fourth curl line"
            if line.startswith("curl"):
                lines.append(line.rstrip("\n"))
        return process, lines

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.home / "pids").read_text().split()]


def read_until(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    raise AssertionError(f"never said {words!r}, but:\n{''.join(seen)}")


def are_gone(pids: list[int]) -> bool:
    """Whether all end within a few seconds; a zombie that init has yet to reap counts as gone."""
    deadline_s = time.monotonic() + 10
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

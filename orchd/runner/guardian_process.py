"""One guardian process, as the daemon holds it: its pipe, its words, its end.

Invariant: nothing here waits for it on the event loop, but for the half second at most in which one
that was killed is reaped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from io import FileIO
from pathlib import Path

_GUARDIAN = str(Path(__file__).with_name("guardian.py"))
_INHERITED = ("LD_LIBRARY_PATH",)
_READ_BYTES = 64 * 1024
_REAP_S = 0.5
"""From its SIGKILL, or from the end of its output, to its end: a moment, but for a hung disk."""


class GuardianProcess:
    """A running guardian. Constructing it spawns it; raises OSError where that fails."""

    def __init__(self, arguments: Sequence[str], hear: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._hear = hear
        self._heard = b""
        self.is_gone = asyncio.Event()
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        self.pipe = FileIO(write_end, "w")
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-I", "-S", _GUARDIAN, *arguments],
                # Not ours: it holds the token, and would mark a daemon that an engine has started.
                env={name: os.environ[name] for name in _INHERITED if name in os.environ},
                cwd="/",
                stdin=read_end,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError:
            self.pipe.close()
            raise
        finally:
            os.close(read_end)
        assert self._popen.stdout is not None
        self._output = self._popen.stdout
        os.set_blocking(self._output.fileno(), False)
        self._loop.add_reader(self._output.fileno(), self._read)

    def tell(self, line: str) -> None:
        """A line for it; one that has not read thousands of them is ended."""
        # Once it is gone, its successor is told all.
        with contextlib.suppress(BrokenPipeError):
            if self.pipe.write(line.encode() + b"\n") is None:
                self._popen.kill()

    def hang_up(self) -> None:
        """What it takes for the end of the daemon: it goes, too."""
        self.pipe.close()

    def let_go(self) -> None:
        """Hang up and listen no more; what it has to end still, it ends."""
        self.hang_up()
        self._loop.remove_reader(self._output.fileno())
        self._output.close()

    def reap(self) -> int | None:
        """End it where it has not gone; its exit code, None where it cannot be killed."""
        self._popen.kill()
        try:
            return self._popen.wait(_REAP_S)
        except subprocess.TimeoutExpired:
            # A thread of it waits inside the kernel, for a disk.
            return None

    def _read(self) -> None:
        try:
            data = os.read(self._output.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            # Nobody else holds it open: that is the end of the process.
            self._loop.remove_reader(self._output.fileno())
            self.is_gone.set()
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        self._heard = self._heard[-_READ_BYTES:]
        for line in lines:
            self._hear(line.decode(errors="replace"))

"""What says of itself that it is a terminal, and a command in a real one of its own."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

TIMEOUT_S = 30.0


class Terminal(io.StringIO):
    """Text that says that it goes to one."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


class InTerminal:
    """``orchd`` with these words; what it shows is kept."""

    def __init__(self, words: Sequence[str], environ: Mapping[str, str]) -> None:
        self._screen, terminal = pty.openpty()
        self.shown = ""
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchd", *words],
                env=environ,
                stdin=terminal,
                stdout=terminal,
                stderr=terminal,
            )
        finally:
            os.close(terminal)

    def await_text(self, text: str) -> None:
        while text not in self.shown:
            assert self._read(), f"{text!r} was never shown:\n{self.shown}"

    def press_ctrl_c(self) -> int:
        """What a terminal sends then; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        while self._read():
            pass
        return self.process.wait(TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)

    def _read(self) -> bool:
        """Whether more was shown; False at its end."""
        assert select.select([self._screen], [], [], TIMEOUT_S)[0], self.shown
        try:
            more = os.read(self._screen, 65536)
        except OSError:
            return False  # nobody holds the terminal's other end any more
        self.shown += more.decode(errors="replace")
        return bool(more)


@contextlib.contextmanager
def in_terminal(words: Sequence[str], environ: Mapping[str, str]) -> Iterator[InTerminal]:
    """Run it; at the end it is gone."""
    running = InTerminal(words, environ)
    try:
        yield running
    finally:
        running.close()

"""A daemon as a child process that ends with the one who started it, whichever way that goes.

Invariants: leaving the ``with`` block stops the daemon, on every path; a starter killed outright
takes it along through the tether; the child is reaped only after what is left of its group has
been killed, for until then its number cannot belong to anybody else.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

TETHER = Path(__file__).resolve().parent.parent / "orchd" / "runner" / "tether.py"
STOP_TIMEOUT_S = 40.0


class Interrupted(KeyboardInterrupt):
    """A signal asked this process to end. A KeyboardInterrupt, so that what cleans up after Ctrl-C
    cleans up after SIGTERM and SIGHUP too."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"ended by {signal.Signals(number).name}")


def raise_on_signals() -> None:
    """From here on, what would end this process raises Interrupted in the main thread."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    signal.signal(signal.SIGTERM, interrupt)
    # A shell without job control starts background processes deaf to SIGINT; this one listens.
    signal.signal(signal.SIGINT, interrupt)
    # nohup means that a closed terminal should not matter.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, interrupt)


@contextlib.contextmanager
def _deaf_to_signals() -> Iterator[None]:
    """For what has to be done to its end; afterwards they are heard as before."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, heard in before.items():
            signal.signal(number, heard)


class DaemonChild:
    """A running daemon; started on entering the ``with`` block, its output going to a file.

    ``environ`` None is ours. Without a tether it starts as its command alone does, which is for
    those who time the start, and outlives a starter that is killed outright.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        stop_timeout_s: float = STOP_TIMEOUT_S,
        environ: Mapping[str, str] | None = None,
        is_tethered: bool = True,
    ) -> None:
        tether = [sys.executable, "-I", "-S", str(TETHER), str(os.getpid()), ""]
        self._command = [*(tether if is_tethered else ()), *command]
        self._log = log
        self._stop_timeout_s = stop_timeout_s
        self._environ = environ

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            # Its own session, so that Ctrl-C in the terminal reaches only the starter.
            self._process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            # Not the group: the daemon stops its engines in order, and a task may yet finish.
            os.kill(self.pid, signal.SIGTERM)
            self.has_exited_within(self._stop_timeout_s)
        except Interrupted:
            pass  # asked twice: no more waiting
        finally:
            with _deaf_to_signals():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
                os.close(self._pidfd)

    def has_exited_within(self, timeout_s: float | None) -> bool:
        """Waits for the end of the daemon, without reaping it; None waits as long as it takes."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))

    def read_last_lines(self, lines: int = 20) -> list[str]:
        """The end of what the daemon wrote, for the one who has to see why it failed."""
        with self._log.open(errors="replace") as log:
            return [line.rstrip("\n") for line in deque(log, maxlen=lines)]

"""Measures how long the daemon's event loop keeps one request waiting, less the machine's noise.

A process of its own asks for /health again and again, for a thread of the soak's own process would
measure that one's interpreter lock. Of each wait it takes off what the kernel says that the
daemon's main thread and itself were ready to run and were not let: what is left is what the daemon
did, or was blocked by. Where both waited at once that time is taken off twice, and a wait of the
daemon that had begun before the probe is taken off whole, so what is left errs towards too little,
by what others had of the processors at most. What the host gave to other guests (steal) is not
seen.

The process ends with the ``with`` block, and with whoever started it: its stdin is at its end then.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_HOST = "127.0.0.1"
_TOKEN = "ORCHD_API_TOKEN"
_TOOLS = Path(__file__).resolve().parent.parent
_STOP_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 10.0
# /health says 503 while no pool can serve, which is the loop's answer as good as any.
_ALIVE = (200, 503)


@dataclass(frozen=True, slots=True)
class Beat:
    """One probe."""

    at_s: float
    """When it was sent, by the monotonic clock, which all processes share."""
    took_s: float
    """Until the first byte of the answer; the timeout, where none came for so long."""
    own_s: float
    """Of that, what nobody but the daemon took."""
    failed: str | None = None
    """Why there was no answer, or not the one that a daemon gives."""


class Pulse:
    """The process, as long as the ``with`` block lasts. What it measured stays in the file, a line
    of JSON a probe: ``at_s``, ``took_ms``, ``own_ms``, and ``failed`` where it did.

    ``pid`` is the daemon's. A connection is kept; where it was closed, the probe makes another.
    """

    def __init__(
        self,
        port: int,
        token: str,
        pid: int,
        out: Path,
        every_s: float = 0.1,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._command = [sys.executable, "-S", "-m", "soaking.pulse"]
        self._command += [str(one) for one in (port, pid, every_s, timeout_s)]
        # Arguments can be read by every user of the machine.
        self._environ = {**os.environ, "PYTHONPATH": str(_TOOLS), _TOKEN: token}
        self._out = out
        self._is_wanted = True
        self._broke_off: int | None = None
        """With which code it ended while it was wanted."""

    def __enter__(self) -> Self:
        with self._out.open("wb") as out:
            # Its own session, so that Ctrl-C in the terminal reaches only the starter.
            self._process = subprocess.Popen(
                self._command,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=out,
                start_new_session=True,
            )
        self.pid = self._process.pid
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._broke_off, self._is_wanted = self._process.poll(), False
        try:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()

    def read(self) -> list[Beat]:
        """All so far, within the block or after it. A pulse that stopped by itself would show a
        daemon without stalls, and is an AssertionError."""
        if self._is_wanted:
            self._broke_off = self._process.poll()
        code = self._broke_off
        assert code is None, f"the pulse ended by itself with code {code}"
        *lines, _ = self._out.read_text().split("\n")
        return [_read_beat(line) for line in lines]


def _read_beat(line: str) -> Beat:
    told = json.loads(line)
    return Beat(
        told["at_s"], told["took_ms"] / 1000, told["own_ms"] / 1000, told.get("failed", None)
    )


def _write_beat(beat: Beat) -> str:
    told: dict[str, float | str] = {
        "at_s": round(beat.at_s, 6),
        "took_ms": round(beat.took_s * 1000, 3),
        "own_ms": round(beat.own_s * 1000, 3),
    }
    if beat.failed is not None:
        told["failed"] = beat.failed
    return json.dumps(told)


# -- the process itself ----------------------------------------------------------------------------


class _WaitClock:
    """How long a thread has waited in the run queue, from its schedstat: nanoseconds on a
    processor, nanoseconds waiting for one, turns (the kernel's scheduler/sched-stats).

    Opened once, so that it never tells of another thread that came to have the number.
    """

    def __init__(self, thread: str) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open(f"/proc/{thread}/schedstat", os.O_RDONLY | os.O_CLOEXEC)

    def read_s(self) -> float | None:
        """None where it cannot be told, as of a thread that has ended."""
        if self._file is None:
            return None
        try:
            return int(os.pread(self._file, 100, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            return None


class _Prober:
    """Asks over one connection, made when it is needed."""

    def __init__(self, port: int, token: str, pid: int, timeout_s: float) -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._request = (
            f"GET /health HTTP/1.1\r\nHost: {_HOST}:{port}\r\nAuthorization: Bearer {token}\r\n\r\n"
        ).encode()
        self._clocks = (_WaitClock("thread-self"), _WaitClock(f"{pid}/task/{pid}"))
        self._connection: socket.socket | None = None

    def probe(self) -> Beat:
        waited_before = [clock.read_s() for clock in self._clocks]
        at_s = time.monotonic()
        deadline_s = at_s + self._timeout_s
        first, failed = b"", None
        try:
            first = self._ask(deadline_s)
        except TimeoutError:
            failed = f"no answer within {self._timeout_s:g} s"
        except OSError as exc:
            failed = str(exc) or type(exc).__name__
        took_s = min(time.monotonic() - at_s, self._timeout_s)
        waited_after = [clock.read_s() for clock in self._clocks]
        if failed is None:
            failed = self._read_rest(first, deadline_s)
        else:
            self._drop()
        own_s = took_s - _sum_waits(waited_before, waited_after)
        return Beat(at_s, took_s, max(own_s, 0.0), failed)

    def _ask(self, deadline_s: float) -> bytes:
        """The first bytes of the answer."""
        if self._connection is not None:
            # The daemon may close a connection between two requests; then this one was never heard.
            with contextlib.suppress(ConnectionError):
                return self._ask_over(self._connection, deadline_s)
            self._drop()
        left_s = max(deadline_s - time.monotonic(), 0.001)
        self._connection = socket.create_connection((_HOST, self._port), left_s)
        return self._ask_over(self._connection, deadline_s)

    def _ask_over(self, connection: socket.socket, deadline_s: float) -> bytes:
        connection.settimeout(max(deadline_s - time.monotonic(), 0.001))
        connection.sendall(self._request)
        first = connection.recv(1 << 16)
        if not first:
            raise ConnectionError("closed without an answer")
        return first

    def _read_rest(self, answer: bytes, deadline_s: float) -> str | None:
        """Clears the connection for the next request, or drops it; returns what is wrong with the
        answer."""
        assert self._connection is not None
        try:
            while b"\r\n\r\n" not in answer:
                answer += self._read_more(deadline_s)
            head, _, body = answer.partition(b"\r\n\r\n")
            left_bytes = _read_length(head) - len(body)
            while left_bytes > 0:
                left_bytes -= len(self._read_more(deadline_s))
            status = int(head.split()[1])
        except (OSError, ValueError, IndexError) as exc:
            self._drop()
            return f"an answer that broke off or is none: {exc}"
        return None if status in _ALIVE else f"answered {status}"

    def _read_more(self, deadline_s: float) -> bytes:
        assert self._connection is not None
        self._connection.settimeout(max(deadline_s - time.monotonic(), 0.001))
        more = self._connection.recv(1 << 16)
        if not more:
            raise ConnectionError("closed in the middle")
        return more

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _read_length(head: bytes) -> int:
    """Raises ValueError where it is not told; /health always tells it."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError("no Content-Length")


def _sum_waits(before: Sequence[float | None], after: Sequence[float | None]) -> float:
    """Nothing is taken off where not all can be told."""
    waited_s = 0.0
    for earlier_s, later_s in zip(before, after, strict=True):
        if earlier_s is None or later_s is None:
            return 0.0
        waited_s += later_s - earlier_s
    return waited_s


def main(arguments: Sequence[str]) -> int:
    """PORT PID EVERY_S TIMEOUT_S, the token by the environment; until stdin is at its end."""
    port, pid, every_s, timeout_s = arguments
    prober = _Prober(int(port), os.environ[_TOKEN], int(pid), float(timeout_s))
    next_s = time.monotonic()
    while True:
        print(_write_beat(prober.probe()), flush=True)
        # After a stall it goes on from there: what it missed is told by the one that waited.
        next_s = max(next_s + float(every_s), time.monotonic())
        pause_s = max(next_s - time.monotonic(), 0.0)
        if select.select([sys.stdin], [], [], pause_s)[0]:
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

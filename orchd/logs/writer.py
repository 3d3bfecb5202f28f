"""Writes the log's lines from a thread of its own, for a write may block for as long as it likes.

A pipe that nobody drains, a journal that is being restarted, a full disk: none of them may hold up
the event loop, nor end it. What the queue has no room for, and what could not be written, is
counted and owned up to in a line of its own.

Invariants: ``put`` never waits for a write; the queue holds no more than ``bound_bytes``.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

BOUND_BYTES = 1024 * 1024
"""Some thousands of lines: more than any start or stop says in one go."""


class LineWriter:
    """Lines on their way to ``descriptor``, which stays its owner's.

    ``explain`` makes the line that owns up to a loss, of what it is to say.
    """

    def __init__(
        self, descriptor: int, explain: Callable[[str], bytes], bound_bytes: int = BOUND_BYTES
    ) -> None:
        self._descriptor = descriptor
        self._explain = explain
        self._bound_bytes = bound_bytes
        self._news = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._left_out = 0
        self._is_closed = False
        # Only the thread writes these two.
        self._unwritten = 0
        self._is_torn = False
        self._thread = threading.Thread(target=self._work, name="log writer", daemon=True)
        self._thread.start()

    def put(self, line: bytes) -> None:
        """Write it, soon; from any thread."""
        with self._news:
            if self._waiting_bytes + len(line) > self._bound_bytes:
                self._left_out += 1
                return
            self._own_up()
            self._append(line)

    def close(self, grace_s: float) -> None:
        """Write what is left, for ``grace_s`` at most."""
        with self._news:
            self._is_closed = True
            self._news.notify()
        self._thread.join(grace_s)

    def _append(self, line: bytes) -> None:
        self._lines.append(line)
        self._waiting_bytes += len(line)
        self._news.notify()

    def _own_up(self) -> None:
        """Say where lines are missing; a few bytes over the bound are worth it."""
        if self._left_out:
            left_out, self._left_out = self._left_out, 0
            self._append(
                self._explain(
                    f"left out {left_out} of the log's lines: they were not taken in time"
                )
            )

    # -- the thread ------------------------------------------------------------------------------

    def _work(self) -> None:
        while (line := self._take()) is not None:
            self._write(line)

    def _take(self) -> bytes | None:
        """The next line; None once there will be no more."""
        with self._news:
            while not self._lines:
                self._own_up()
                if not self._lines:
                    if self._is_closed:
                        return None
                    self._news.wait()
            line = self._lines.popleft()
            self._waiting_bytes -= len(line)
            return line

    def _write(self, line: bytes) -> None:
        unwritten = self._unwritten
        try:
            if unwritten:
                lost = f"could not write {unwritten} of the log's lines"
                self._write_whole(self._explain(lost))
                self._unwritten -= unwritten
            self._write_whole(line)
        except OSError:
            self._unwritten += 1

    def _write_whole(self, line: bytes) -> None:
        """Raises OSError; what was torn off then is ended before anything else is written."""
        data = b"\n" + line if self._is_torn else line
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
                self._is_torn = bool(data)
            except BlockingIOError:
                # Somebody else who has the same file made it so; we cannot undo that for them.
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()

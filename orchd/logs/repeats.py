"""Tells of what a client can make happen a thousand times a second, on the loop's clock.

Invariants: what happened is told, at the latest by ``close``; there is one timer at most, and none
after ``close``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.logs.throttle import Throttle


class Repeats:
    """One kind of event; ``tell`` gets how many there were in the last ``SPAN_S``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tell: Callable[[int], None]) -> None:
        self._loop = loop
        self._tell = tell
        self._throttle = Throttle()
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    def note(self) -> None:
        """It has happened again."""
        self._tell_of(self._throttle.note(self._loop.time()))
        due_s = self._throttle.due_s
        if due_s is not None and self._timer is None and not self._is_closed:
            self._timer = self._loop.call_later(due_s - self._loop.time(), self._on_due)

    def close(self) -> None:
        """Tell of what is left."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell_of(self._throttle.take_rest(self._loop.time()))

    def _on_due(self) -> None:
        self._timer = None
        self._tell_of(self._throttle.take_rest(self._loop.time()))

    def _tell_of(self, count: int) -> None:
        if count:
            self._tell(count)

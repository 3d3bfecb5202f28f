"""Keeps a connection's phase, and tells when that has lasted too long: the shell of ``deadlines``.

Invariants: all deadlines of a connection share one timer, and after ``stop`` there is none; a
deadline that moves away costs nothing, since the timer that is set finds out when it fires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.http1.deadlines import Deadline, Expiry, Headway, Phase, plan_deadline
from orchd.http1.limits import Limits


class Watch:
    """One connection's clock; ``unsent_bytes`` is what the kernel has not taken of its replies."""

    __slots__ = (
        "_expire",
        "_fires_s",
        "_headway",
        "_is_stopped",
        "_limits",
        "_loop",
        "_since_s",
        "_timer",
        "_unsent_bytes",
        "phase",
    )

    def __init__(
        self,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        unsent_bytes: Callable[[], int],
        expire: Callable[[Expiry], None],
    ) -> None:
        self._limits = limits
        self._loop = loop
        self._unsent_bytes = unsent_bytes
        self._expire = expire
        self.phase = Phase.OPENED
        self._since_s = loop.time()
        self._headway = Headway(self._since_s)
        self._timer: asyncio.TimerHandle | None = None
        self._fires_s = 0.0
        self._is_stopped = False

    def enter(self, phase: Phase) -> None:
        """From now on it is somebody else's move, or another one."""
        # The first head has been awaited since the connection opened.
        if (self.phase, phase) != (Phase.OPENED, Phase.HEAD):
            self._since_s = self._loop.time()
        self.phase = phase

    def note_write(self, size_bytes: int) -> None:
        """So much is about to be written."""
        self._headway.note_write(size_bytes, self._unsent_bytes(), self._loop.time())

    def note_sent(self) -> None:
        """A part of a stream was written; only what the kernel has not taken has a deadline."""
        if self._unsent_bytes():
            self.settle()

    def settle(self) -> None:
        """A step of the connection is over: be there when the next deadline has come."""
        deadline = self._plan()
        if deadline is None or self._is_stopped:
            return
        if self._timer is not None:
            if self._fires_s <= deadline.at_s:
                return
            self._timer.cancel()
        self._fires_s = deadline.at_s
        self._timer = self._loop.call_later(deadline.at_s - self._loop.time(), self._ring)

    def stop(self) -> None:
        """Tell nothing any more."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        deadline = self._plan()
        if deadline is not None and deadline.at_s <= self._loop.time():
            self._expire(deadline.expiry)
        self.settle()

    def _plan(self) -> Deadline | None:
        now_s, unsent_bytes = self._loop.time(), self._unsent_bytes()
        self._headway.look(unsent_bytes, now_s)
        return plan_deadline(
            self.phase, self._since_s, self._headway, unsent_bytes, now_s, self._limits
        )

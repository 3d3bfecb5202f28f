"""Pumps a streamed body from its source to the socket.

Whatever wakes it within one loop turn is pulled and written once, at the turn's end. While the
socket takes nothing it pulls nothing, so a slow client costs its source's cursor and no memory.
After a silence it sends what the source says that it waits for.

Invariant: after ``stop`` it holds no timer and no callback, and its source is detached.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from orchd.http1 import sse
from orchd.http1.limits import Limits
from orchd.http1.messages import Source

log = logging.getLogger(__name__)

_PULLS_PER_TURN = 16
"""A client that reads as fast as we write must not keep the loop for itself."""

RESET_S = 0.5
"""How long a reset takes to come back."""


class Outlet(Protocol):
    """Where the body goes."""

    is_writable: bool

    def write_part(self, frames: bytes) -> None:
        """Send some of it."""

    def finish(self, frames: bytes) -> None:
        """Send the last of it; the pump has stopped by then."""

    def abort(self) -> None:
        """Break off: the source failed."""


class Pump:
    """One source, one outlet."""

    def __init__(
        self,
        source: Source,
        outlet: Outlet,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._source = source
        self._outlet = outlet
        self._limits = limits
        self._loop = loop
        self._written_s = loop.time()
        self._turn: asyncio.Handle | None = None
        self._timer = loop.call_later(limits.ping_s, self._watch_silence, limits.ping_s)
        source.attach(self.wake)
        self.wake()

    def wake(self) -> None:
        """There may be more to pull, or the socket takes more."""
        if self._turn is None:
            self._turn = self._loop.call_soon(self._run)

    def probe(self) -> None:
        """Find out whether the reader is still there.

        The first write to one that is gone earns a reset, which nobody sees who does not read; the
        next write fails on it.
        """
        self._ping()
        self._timer.cancel()
        self._timer = self._loop.call_later(RESET_S, self._watch_silence, 0.0)

    def stop(self) -> None:
        self._timer.cancel()
        if self._turn is not None:
            self._turn.cancel()
        self._source.detach()

    def _run(self) -> None:
        self._turn = None
        try:
            self._drain()
        except Exception:
            # A client that is left waiting could not tell this from a slow engine.
            log.exception("a stream's source failed")
            self._outlet.abort()

    def _drain(self) -> None:
        for _ in range(_PULLS_PER_TURN):
            if not self._outlet.is_writable:
                return
            frames = self._source.pull(self._limits.pull_bytes)
            if self._source.is_finished:
                self.stop()
                self._outlet.finish(frames)
                return
            if not frames:
                return
            self._written_s = self._loop.time()
            self._outlet.write_part(frames)
            if not self._source.has_more:
                return
        self.wake()

    def _ping(self) -> None:
        if self._outlet.is_writable:
            self._written_s = self._loop.time()
            self._outlet.write_part(sse.encode_comment(self._source.describe_wait()))

    def _watch_silence(self, most_s: float) -> None:
        ping_s = self._limits.ping_s
        silent_s = self._loop.time() - self._written_s
        if silent_s >= most_s:
            self._ping()
            silent_s = 0.0
        self._timer = self._loop.call_later(ping_s - silent_s, self._watch_silence, ping_s)

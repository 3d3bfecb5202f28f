"""Pumps a streamed body from its source to the socket.

Whatever wakes it within one loop turn is pulled and written once, at the turn's end. While the
socket takes nothing it pulls nothing, so a slow client costs its source's cursor and no memory.
After a silence it sends what the source says that it waits for.

Invariant: after ``stop`` it holds no timer and no callback, and its source is detached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from orchd.http1.messages import Source


@dataclass(frozen=True, slots=True)
class Outlet:
    """Where the body goes."""

    write: Callable[[bytes], None]
    """Send some of it."""
    finish: Callable[[bytes], None]
    """Send the last of it; the pump has stopped by then."""
    is_writable: Callable[[], bool]


class Pump:
    """One source, one outlet."""

    def __init__(
        self,
        source: Source,
        outlet: Outlet,
        pull_bytes: int,
        ping_s: float,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._source = source
        self._outlet = outlet
        self._pull_bytes = pull_bytes
        self._ping_s = ping_s
        self._loop = loop
        self._written_s = loop.time()
        self._turn: asyncio.Handle | None = None
        self._timer = loop.call_later(ping_s, self._watch_silence)
        source.attach(self.wake)
        self.wake()

    def wake(self) -> None:
        """There may be more to pull, or the socket takes more."""
        if self._turn is None:
            self._turn = self._loop.call_soon(self._run)

    def ping(self) -> None:
        """Say now what is awaited."""
        if self._outlet.is_writable():
            self._write(self._source.describe_wait())

    def stop(self) -> None:
        self._timer.cancel()
        if self._turn is not None:
            self._turn.cancel()
        self._source.detach()

    def _run(self) -> None:
        self._turn = None
        while self._outlet.is_writable():
            frames = self._source.pull(self._pull_bytes)
            if self._source.is_finished:
                self.stop()
                self._outlet.finish(frames)
                return
            if not frames:
                return
            self._write(frames)

    def _write(self, frames: bytes) -> None:
        self._written_s = self._loop.time()
        self._outlet.write(frames)

    def _watch_silence(self) -> None:
        silent_s = self._loop.time() - self._written_s
        if silent_s >= self._ping_s:
            self.ping()
            silent_s = 0.0
        self._timer = self._loop.call_later(self._ping_s - silent_s, self._watch_silence)

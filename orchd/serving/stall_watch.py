"""The one timer of a running task, which finds out that it makes no progress any more.

Progress does not move the timer: when its time has come, it looks whether there was some, and sets
itself anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from orchd.serving.progress import Progress
from orchd.serving.task import Stalled

T = TypeVar("T")

_LAST_LOOK_S = 0.1
"""Timers go before sockets: a loop that was held up first has to hear what was said meanwhile."""


class StallWatch:
    """Calls ``on_stall`` once, unless it is stopped before."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        progress: Progress,
        stall_s: float,
        on_stall: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._progress = progress
        self._stall_s = stall_s
        self._on_stall = on_stall
        self._timer = loop.call_later(self._left_s, self._look)

    def stop(self) -> None:
        self._timer.cancel()

    @property
    def _left_s(self) -> float:
        return self._progress.deadline_s(self._stall_s) - self._loop.time()

    def _look(self) -> None:
        left_s = self._left_s
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look)
        else:
            self._timer = self._loop.call_later(_LAST_LOOK_S, self._look_again)

    def _look_again(self) -> None:
        if self._left_s > 0:
            self._look()
        else:
            self._on_stall()


async def run_until_stall(
    loop: asyncio.AbstractEventLoop, work: Awaitable[T], progress: Progress, stall_s: float
) -> T | Stalled:
    """What the work comes to; it is cancelled where it makes no progress for so long."""
    try:
        async with asyncio.timeout(None) as limit:
            # An hour that is long past: at once.
            watch = StallWatch(loop, progress, stall_s, lambda: limit.reschedule(0))
            try:
                return await work
            finally:
                watch.stop()
    except TimeoutError:
        assert limit.expired(), "the work timed out by itself"
        return Stalled(stall_s)

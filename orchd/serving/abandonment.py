"""Cancels interactive tasks that nobody has read for a while.

Invariant: only an interactive task that has not ended and has no reader has a clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.serving.entry import Entry
from orchd.serving.task import Priority


class Abandonment:
    """The clocks of all tasks; ``cancel`` gets the task and the reason."""

    def __init__(
        self,
        after_s: float,
        loop: asyncio.AbstractEventLoop,
        cancel: Callable[[Entry, str], None],
    ) -> None:
        self._after_s = after_s
        self._reason = f"nobody streamed it for {after_s:g} s"
        self._loop = loop
        self._cancel = cancel
        self._clocks: dict[Entry, asyncio.TimerHandle] = {}

    def watch(self, entry: Entry) -> None:
        """Its readers or its state have changed: start its clock afresh, or stop it."""
        if (clock := self._clocks.pop(entry, None)) is not None:
            clock.cancel()
        task = entry.task
        is_watched = task.spec.priority is Priority.INTERACTIVE and not task.has_ended
        if is_watched and not entry.has_readers:
            self._clocks[entry] = self._loop.call_later(
                self._after_s, self._cancel, entry, self._reason
            )

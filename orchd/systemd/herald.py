"""Tells the service manager how the daemon stands, on timers of the event loop.

The watchdog is fed by the loop alone: one that stalls feeds it no more, and the service manager
starts the daemon afresh. That is so during the stop, too.

Invariants: where nobody listens there is no timer; no message blocks the loop; one that was not
taken is said again, but for the feeding, which the next one makes up for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.systemd.notifier import Notifier
from orchd.systemd.standing import Standing

LOOK_S = 0.5
"""How often it is looked whether there is news; nothing is sent where there is none."""
_FEED_S = 0.01
"""How often the watchdog is fed at most, whatever it asks for."""
RUN_ON_S = 10.0
"""How often a line is told anew of which only the seconds are others."""


class Herald:
    """Speaks for the daemon from ``start`` to ``close``; ``look`` has how it stands now."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, notifier: Notifier, look: Callable[[], Standing]
    ) -> None:
        self._loop = loop
        self._notifier = notifier
        self._look = look
        self._told: Standing | None = None
        self._told_s = loop.time()
        self._untaken: dict[str, str] = {}
        self._is_stopping = False
        self._looking: asyncio.TimerHandle | None = None
        self._feeding: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """The daemon listens: it can be asked from now on, whatever has yet to be loaded."""
        if self._notifier.is_heard:
            self._untaken["READY"] = "1"
            self._look_on()
            if self._notifier.watchdog_s is not None:
                self._feed(max(self._notifier.watchdog_s / 2, _FEED_S))

    def announce_stop(self, line: str, longest_s: float) -> None:
        """It stops, which may take so long: that can be more than the unit allows by itself."""
        self._is_stopping = True
        extend_us = f"{longest_s * 1_000_000:.0f}"
        self._say({"STOPPING": "1", "STATUS": line, "EXTEND_TIMEOUT_USEC": extend_us})

    def tell(self, line: str) -> None:
        """How far the stop is."""
        self._say({"STATUS": line})

    def close(self) -> None:
        """Nothing is said any more, and no timer is left."""
        for timer in (self._looking, self._feeding):
            if timer is not None:
                timer.cancel()
        self._notifier.close()

    def _look_on(self) -> None:
        # Armed before anything else is done, so that a fault in that is not the end of it.
        self._looking = self._loop.call_later(LOOK_S, self._look_on)
        news = {} if self._is_stopping else self._find_news()
        if news or self._untaken:
            self._say(news)

    def _feed(self, interval_s: float) -> None:
        self._feeding = self._loop.call_later(interval_s, self._feed, interval_s)
        self._notifier.send({"WATCHDOG": "1"})

    def _find_news(self) -> dict[str, str]:
        standing, now_s = self._look(), self._loop.time()
        has_turned = self._told is None or standing.turn != self._told.turn
        if not has_turned and (standing == self._told or now_s - self._told_s < RUN_ON_S):
            return {}
        self._told, self._told_s = standing, now_s
        return {"STATUS": standing.line}

    def _say(self, fields: dict[str, str]) -> None:
        self._untaken |= fields
        if self._notifier.send(self._untaken):
            self._untaken = {}

"""Waits for a reply that comes later.

What it waits for belongs to somebody else: a client that leaves takes its callback along, and that
is all. Invariant: after ``stop`` it holds no timer, no callback of it is left, and it answers no
more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.http1.messages import PendingResponse, Response
from orchd.http1.pump import RESET_S

_PROBES = 2


class Waiter:
    """One pending reply; ``answer`` is called at most once, and it has stopped by then."""

    def __init__(
        self,
        pending: PendingResponse,
        answer: Callable[[Response], None],
        invite: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._pending = pending
        self._answer = answer
        self._invite = invite
        self._loop = loop
        self._is_stopped = False
        self._timer: asyncio.TimerHandle | None = None
        pending.awaited.add_done_callback(self._take)

    def wake(self) -> None:
        """The socket takes more, which nothing waited for."""

    def probe(self) -> None:
        """Find out whether the reader is still there, unless the reply is quicker.

        A second write fails where the first has earned a reset. Some clients count what they are
        told before a reply, and five times is too often for them.
        """
        self._probe_later(_PROBES)

    def stop(self) -> None:
        self._is_stopped = True
        self._pending.awaited.remove_done_callback(self._take)
        if self._timer is not None:
            self._timer.cancel()

    def _take(self, _: object) -> None:
        # It may have been over, and this booked, in the turn in which the client left.
        if not self._is_stopped:
            self.stop()
            self._answer(self._pending.answer())

    def _probe_later(self, probes: int) -> None:
        self._timer = self._loop.call_later(RESET_S, self._probe, probes) if probes else None

    def _probe(self, probes: int) -> None:
        self._invite()
        self._probe_later(probes - 1)

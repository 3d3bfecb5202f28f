"""Tells the log of requests without the token: who came, never what was tried."""

from __future__ import annotations

import asyncio
import logging

from orchd.http1.messages import Head
from orchd.logs.repeats import Repeats
from orchd.logs.throttle import SPAN_S

log = logging.getLogger(__name__)


class RefusedLogins:
    """All of them together: an attacker has as many addresses as he likes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._last_peer = ""
        self._repeats = Repeats(loop, self._tell)

    def note(self, head: Head) -> None:
        """A request was refused."""
        self._last_peer = head.peer
        self._repeats.note()

    def close(self) -> None:
        """Tell of those that are left; no timer is left."""
        self._repeats.close()

    def _tell(self, count: int) -> None:
        if count == 1:
            log.warning("refused a request without the right token peer=%s", self._last_peer)
        else:
            told = (count, SPAN_S, self._last_peer)
            log.warning(
                "refused %d requests without the right token in the last %g s, the last of them"
                " peer=%s",
                *told,
            )

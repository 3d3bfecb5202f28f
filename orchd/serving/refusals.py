"""Tells the log of tasks that were refused: not of each, for a client may retry in a loop."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from orchd.errors import Code
from orchd.logs.repeats import Repeats
from orchd.logs.throttle import SPAN_S

log = logging.getLogger(__name__)


class Refusals:
    """Every pool's, by the code that its clients were given."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._repeats: dict[tuple[str, Code], Repeats] = {}

    def note(self, pool_id: str, code: Code) -> None:
        """A task was refused."""
        key = (pool_id, code)
        if key not in self._repeats:
            self._repeats[key] = Repeats(self._loop, partial(_tell, pool_id, code))
        self._repeats[key].note()

    def close(self) -> None:
        """Tell of those that are left; no timer is left."""
        for repeats in self._repeats.values():
            repeats.close()


def _tell(pool_id: str, code: Code, count: int) -> None:
    if count == 1:
        log.warning("refused a task pool=%s code=%s", pool_id, code)
    else:
        told = (count, SPAN_S, pool_id, code)
        log.warning("refused %d tasks in the last %g s pool=%s code=%s", *told)

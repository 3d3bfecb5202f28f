"""The wait of a replica for its next try: until it is due, or until there is room for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.runner.resources import NoRoom, Resources


class Retry:
    """At most one wait at a time; ``on_due`` is called once for each that is not cancelled."""

    def __init__(self, resources: Resources, on_due: Callable[[], None]) -> None:
        self._resources = resources
        self._on_due = on_due
        self._called_off: list[Callable[[], None]] = []

    def schedule(self, delay_s: float, no_room: NoRoom | None) -> None:
        """Wait that long at most; less, where what it lacks is room and that is made."""
        timer = asyncio.get_running_loop().call_later(delay_s, self._end)
        self._called_off = [timer.cancel]
        if no_room is not None:
            self._called_off.append(self._resources.wait_for_room(no_room, self._end))

    def cancel(self) -> None:
        for call_off in self._called_off:
            call_off()
        self._called_off = []

    def _end(self) -> None:
        self.cancel()
        self._on_due()

"""Takes one event at a time to its end, also where taking it brings the next one about.

Invariant: ``take`` is never called while it runs, and gets the events in the order of posting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from orchd.runner.lifecycle import Event


class Mailbox:
    """``on_empty`` is called each time when all that was posted is taken."""

    def __init__(self, take: Callable[[Event], None], on_empty: Callable[[], None]) -> None:
        self._take = take
        self._on_empty = on_empty
        self._events: deque[Event] = deque()
        self._is_taking = False

    def post(self, event: Event) -> None:
        """Have it taken now, or after the one that is being taken."""
        self._events.append(event)
        if self._is_taking:
            return
        self._is_taking = True
        try:
            while self._events:
                self._take(self._events.popleft())
        finally:
            self._is_taking = False
        self._on_empty()

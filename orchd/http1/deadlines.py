"""Says until when a connection may go on as it stands, and what becomes of it then.

Invariant: while a reply is under way (``PENDING``, ``STREAMING``, or bytes of it not taken by the
kernel yet) only a reader that takes nothing ends it, never the clock of a head, a body or an idle
connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from orchd.http1.limits import Limits


class Phase(Enum):
    """Whose move it is."""

    OPENED = auto()
    """The client's: nothing of its first head has come."""
    IDLE = auto()
    """The client's: nothing of the next head has come."""
    HEAD = auto()
    """The client's: a part of the head has come."""
    BODY = auto()
    """The client's: the head was let in, its body is wanted."""
    PENDING = auto()
    """Ours: a waiter stands by until there is a reply."""
    STREAMING = auto()
    """Ours: a pump sends the reply."""
    LINGERING = auto()
    """The client's: the last reply was given, it may close."""
    CLOSED = auto()
    """Nobody's: the kernel takes what is left of the last reply."""


READING = (Phase.OPENED, Phase.IDLE, Phase.HEAD, Phase.BODY)


class Expiry(Enum):
    """What a deadline means once it has passed."""

    LOOK = auto()
    """Nothing; it is time to look whether the kernel took more."""
    CLOSE = auto()
    """Close without a word: nobody asked anything."""
    REFUSE = auto()
    """Say that it took too long, and close."""
    ABORT = auto()
    """Drop the client with all that it did not read."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When, and what then."""

    at_s: float
    expiry: Expiry


class Headway:
    """How far the kernel has got with what was written.

    A transport tells by itself only that it got below its low mark, so its unsent bytes are looked
    at: after every step of the connection, and ``_LOOKS`` times within the longest stall.
    """

    __slots__ = ("_taken_bytes", "_written_bytes", "at_s")

    def __init__(self, now_s: float) -> None:
        self.at_s = now_s
        """When it was last seen to take something, or was given something after it had all."""
        self._taken_bytes = 0
        self._written_bytes = 0

    def note_write(self, size_bytes: int, unsent_bytes: int, now_s: float) -> None:
        """So much is written on top of what was unsent."""
        if not unsent_bytes:
            self.at_s = now_s
            self._taken_bytes = self._written_bytes
        self._written_bytes += size_bytes

    def look(self, unsent_bytes: int, now_s: float) -> None:
        """So much is unsent now."""
        taken_bytes = self._written_bytes - unsent_bytes
        if taken_bytes > self._taken_bytes:
            self.at_s = now_s
            self._taken_bytes = taken_bytes


_LOOKS = 4
"""So that a stall is found within a quarter more than the longest that is allowed."""


def plan_deadline(
    phase: Phase, since_s: float, headway: Headway, unsent_bytes: int, now_s: float, limits: Limits
) -> Deadline | None:
    """The next instant at which the connection wants a look; None where it may go on for ever.

    ``since_s`` is when the phase began (of the first ``HEAD``: when the connection opened).
    """
    due = _plan_phase(phase, since_s, headway.at_s, limits)
    if not unsent_bytes:
        return due
    look_s = now_s + limits.reader_stall_s / _LOOKS
    if due is not None and now_s < due.at_s < look_s:
        look_s = due.at_s
    stalled_s = headway.at_s + limits.reader_stall_s
    return (
        Deadline(stalled_s, Expiry.ABORT) if stalled_s <= look_s else Deadline(look_s, Expiry.LOOK)
    )


def _plan_phase(phase: Phase, since_s: float, sent_s: float, limits: Limits) -> Deadline | None:
    match phase:
        case Phase.OPENED:
            return Deadline(since_s + limits.head_timeout_s, Expiry.CLOSE)
        case Phase.HEAD:
            return Deadline(since_s + limits.head_timeout_s, Expiry.REFUSE)
        case Phase.BODY:
            return Deadline(since_s + limits.body_timeout_s, Expiry.REFUSE)
        # A client that read its reply slowly has had no time yet to do something else.
        case Phase.IDLE:
            return Deadline(max(since_s, sent_s) + limits.keep_alive_s, Expiry.CLOSE)
        case Phase.LINGERING:
            return Deadline(max(since_s, sent_s) + limits.linger_s, Expiry.CLOSE)
        case Phase.PENDING | Phase.STREAMING | Phase.CLOSED:
            return None

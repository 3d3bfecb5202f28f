"""Turns a client's bytes into heads, bodies and ends: h11, behind stricter rules.

h11 is given a head once it is whole and has been looked at raw, so that what h11 takes lightly
never gets as far, and no byte is looked at more often than it takes to find a head's end. It is
given the head's pieces, whose letters and values it judges: to find them by itself takes it twice
as long. For the rest of a request, and for its reply, its state machine would take as long as all
of ours (all measured); so bodies are read here, and whatever the pieces are not plain in has an h11
connection of its own, whose word is the last.

Invariant: what is fed waits in ``_inbox`` until its turn; h11 is given whole heads and nothing
else.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

import h11

from orchd.http1 import intake
from orchd.http1.chunks import ChunkReader
from orchd.http1.limits import Limits
from orchd.http1.messages import Head

_EMPTY_LINES = 8
"""How many may stand before a request line (RFC 9112, section 2.2 asks for one)."""


class Signal(Enum):
    """What is no part of a request."""

    END = auto()
    """The request is whole."""
    NEED_DATA = auto()
    NEXT_TURN = auto()
    """There is more, but this much is enough for one turn of the loop."""
    CLOSED = auto()
    """The client has closed its half between two requests."""


Event = h11.Request | bytes | Signal
"""A head, a part of its body, or a signal."""


class Parser:
    """Reads one client's requests, one by one: ``start_next`` after each."""

    __slots__ = (
        "_chunks",
        "_has_eof",
        "_inbox",
        "_limits",
        "_lines",
        "_read",
        "_rest_bytes",
        "_scanned",
        "_spent_bytes",
        "is_whole",
        "needs_data",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._inbox = bytearray()
        self._has_eof = False
        self._spent_bytes = 0
        self.needs_data = True
        """True where nothing can be done before more comes."""
        self.start_next()

    @property
    def waiting_bytes(self) -> int:
        """What came and has not had its turn."""
        return len(self._inbox)

    def feed(self, data: bytes) -> None:
        self._inbox += data
        self.needs_data = False

    def feed_eof(self) -> None:
        self._has_eof = True
        self.needs_data = False

    def start_next(self) -> None:
        """The request before has been answered; a further one may come."""
        self.is_whole = False
        """True once the request has been read to its end."""
        self._read: Callable[[], Event] = self._read_head
        self._scanned = 0
        self._lines = 0

    def start_turn(self) -> None:
        """Another turn of the loop has begun."""
        self._spent_bytes = 0

    def drop(self) -> None:
        """Nothing more will be read."""
        self._inbox = bytearray()

    def next_event(self) -> Event:
        """What comes next. Raises ClientError where it breaks HTTP or a limit."""
        # The end of what is read already costs no turn: nobody would know that it is on its way.
        if self._spent_bytes >= self._limits.slice_bytes and self._inbox:
            return Signal.NEXT_TURN
        event = self._read()
        self.needs_data = event is Signal.NEED_DATA
        return event

    def _need_data(self) -> Signal:
        if self._has_eof:
            raise intake.malformed("the connection was closed in the middle of a request")
        return Signal.NEED_DATA

    # -- a head ------------------------------------------------------------------------------

    def _read_head(self) -> Event:
        inbox = self._inbox
        if inbox.startswith(b"\r\n"):
            self._skip_empty_lines()
        if not inbox:
            return Signal.CLOSED if self._has_eof else Signal.NEED_DATA
        end = inbox.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            intake.check_part(inbox, self._scanned, self._limits)
            self._scanned = len(inbox)
            return self._need_data()
        raw = bytes(inbox[: end + 4])
        del inbox[: len(raw)]
        self._spent_bytes += max(len(raw), self._limits.head_cost_bytes)
        intake.check_raw_head(raw, self._limits)
        return _read_plain(raw) or _ask_h11(raw)

    def _skip_empty_lines(self) -> None:
        while self._inbox.startswith(b"\r\n"):
            self._lines += 1
            if self._lines > _EMPTY_LINES:
                raise intake.malformed("no request line received")
            del self._inbox[:2]

    # -- a body ------------------------------------------------------------------------------

    def expect_body(self, head: Head) -> None:
        """The head was let in: read what it announces, be it nothing."""
        if head.is_chunked:
            self._chunks = ChunkReader(self._limits)
            self._read = self._read_chunks
        else:
            self._rest_bytes = head.length_bytes or 0
            self._read = self._read_length

    def _read_length(self) -> Event:
        if not self._rest_bytes:
            return self._end()
        part = bytes(self._inbox[: self._rest_bytes])
        if not part:
            return self._need_data()
        del self._inbox[: len(part)]
        self._rest_bytes -= len(part)
        self._spent_bytes += len(part)
        return part

    def _read_chunks(self) -> Event:
        before_bytes = len(self._inbox)
        part, cost_bytes = self._chunks.read(self._inbox, self._limits.slice_bytes)
        self._spent_bytes += cost_bytes
        if self._chunks.is_whole:
            self._read = self._end
        # Where nothing was taken off, there is no whole line.
        return part if len(self._inbox) < before_bytes else self._need_data()

    def _end(self) -> Signal:
        self.is_whole = True
        return Signal.END


def _read_plain(raw: bytes) -> h11.Request | None:
    """None where a line of the head has another shape than usual, or h11 has something against it:
    that is for its own reader to tell."""
    line, *fields = raw[:-4].split(b"\r\n")
    try:
        method, target, version = line.split(b" ")
        if version != b"HTTP/1.1":
            return None
        pairs = [field.split(b":", 1) for field in fields]
        headers = [(name, value.strip(b" \t")) for name, value in pairs]
        return h11.Request(method=method, target=target, headers=headers)
    except (ValueError, h11.LocalProtocolError):
        return None


def _ask_h11(raw: bytes) -> h11.Request:
    reader = h11.Connection(h11.SERVER)
    try:
        reader.receive_data(raw)
        event = reader.next_event()
    except h11.RemoteProtocolError as error:
        raise intake.explain(error, raw) from error
    assert isinstance(event, h11.Request), f"h11 made {event!r} of a whole head"
    return event

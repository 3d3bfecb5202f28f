"""One HTTP/1.1 connection: an ``asyncio.Protocol`` on one side, h11 on the other.

The way of a request: bytes → h11 → head → ``Application.open`` (token, route) → body → handler →
reply → h11 → bytes. Everything is a synchronous step of the event loop; a streamed reply is left to
a pump.

Invariants: ``_phase`` says whose turn it is and only ``_begin_*``, ``_end_reply`` and ``_close``
set it; requests are answered in the order in which they came; what a client sends ahead of its turn
is bounded, as is what it does not read; nothing of a connection outlives ``connection_lost``.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from enum import Enum, auto
from typing import Any, Protocol, cast

import h11

from orchd.errors import ClientError
from orchd.http1 import intake
from orchd.http1.limits import Limits
from orchd.http1.messages import (
    Accepted,
    Application,
    Head,
    Reply,
    Request,
    Response,
    Source,
    StreamedResponse,
)
from orchd.http1.outgoing import build_head
from orchd.http1.pump import Outlet, Pump


class Owner(Protocol):
    """Who keeps account of the connections."""

    def opened(self, connection: Connection) -> None:
        """The connection lives."""

    def closed(self, connection: Connection) -> None:
        """The connection is gone, with all that it held."""


class _Phase(Enum):
    READING = auto()
    STREAMING = auto()
    LINGERING = auto()
    CLOSED = auto()


_NO_HEAD = Head("", "", "", ())


class Connection(asyncio.Protocol):
    """Serves one client, from ``owner.opened`` to ``owner.closed``."""

    def __init__(
        self,
        application: Application,
        owner: Owner,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._application = application
        self._owner = owner
        self._limits = limits
        self._loop = loop
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._phase = _Phase.READING
        self._is_writable = True
        self._is_last = False
        self._head = _NO_HEAD
        self._verdict: Accepted | Response | None = None
        self._body = bytearray()
        self._pump: Pump | None = None
        self._lingering: asyncio.TimerHandle | None = None
        self._inbox = bytearray()
        self._has_eof = False
        self._turn: asyncio.Handle | None = None

    # -- what the transport tells us ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._phase in (_Phase.LINGERING, _Phase.CLOSED):
            return
        self._inbox += data
        self._read_on()

    def eof_received(self) -> bool:
        """A client may close its half and still read; writing finds out whether it does."""
        self._has_eof = True
        if self._phase in (_Phase.LINGERING, _Phase.CLOSED):
            self._close()
            return False
        if self._pump is not None:
            self._pump.probe()
        self._read_on()
        return True

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        if self._pump is not None:
            self._pump.wake()
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._close()
        finally:
            self._owner.closed(self)

    # -- what the owner asks -----------------------------------------------------------------

    def finish(self) -> None:
        """Take no further request: close when idle, else after the reply that is under way."""
        self._is_last = True
        is_idle = self._h11.their_state is h11.IDLE and not self._inbox
        if self._phase is _Phase.READING and is_idle:
            self._close()

    def abort(self) -> None:
        """Drop the client at once, whatever is under way."""
        self._transport.abort()
        self._close()

    # -- reading -----------------------------------------------------------------------------

    def _read_on(self) -> None:
        """Go on with what the client sent, unless a loop turn is booked for that."""
        if self._turn is None:
            self._advance()
        self._regulate_reading()

    def _advance(self) -> None:
        self._turn = None
        try:
            self._take_events()
        except h11.RemoteProtocolError as error:
            rest = None if self._head is not _NO_HEAD else self._h11.trailing_data[0]
            self._refuse(intake.explain(error, rest, self._limits))
        except ClientError as error:
            self._refuse(error)
        self._regulate_reading()

    def _take_events(self) -> None:
        """Take events from h11 for as long as it is the client's turn.

        One slice of what came is fed, and the rest in later loop turns: else a client that sends
        thousands of requests at once would hold up everybody for seconds.
        """
        is_fed = False
        while self._phase is _Phase.READING and self._is_writable:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                self._take(cast(h11.Event, event))
            elif not self._inbox and not self._has_eof:
                if self._h11.they_are_waiting_for_100_continue:
                    self._write(h11.InformationalResponse(status_code=100, headers=[]))
                return
            elif is_fed:
                self._turn = self._loop.call_soon(self._advance)
                return
            else:
                self._h11.receive_data(bytes(self._inbox[: self._limits.slice_bytes]))
                del self._inbox[: self._limits.slice_bytes]
                is_fed = True

    def _regulate_reading(self) -> None:
        """Read no more while too much waits for its turn; what it waits for comes back here."""
        # After its end a stream must not be read again, or it would end again.
        if self._has_eof or self._phase is _Phase.CLOSED or self._transport.is_closing():
            return
        if len(self._inbox) > self._limits.ahead_bytes:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _take(self, event: h11.Event) -> None:
        match event:
            case h11.Request():
                self._open(event)
            case h11.Data():
                self._body += event.data
                if len(self._body) > self._limits.body_bytes:
                    raise intake.too_large(self._limits)
            case h11.EndOfMessage():
                self._answer()
            case h11.ConnectionClosed():
                self._close()
            case _:
                raise AssertionError(f"h11 gave a server {event!r}")

    def _open(self, event: h11.Request) -> None:
        self._head = head = intake.read_head(event)
        intake.check_head(head, event.http_version)
        self._verdict = self._application.open(head)
        match self._verdict:
            case Response() if intake.announces_body(head):
                self._send(self._verdict)
            case Accepted():
                intake.check_length(head, self._limits)

    # -- answering ---------------------------------------------------------------------------

    def _answer(self) -> None:
        """The request is whole: call its handler, or give the answer that its head earned."""
        verdict, body = self._verdict, bytes(self._body)
        self._verdict, self._body = None, bytearray()
        assert verdict is not None, "a request ended before its head was judged"
        match verdict:
            case Response():
                self._send(verdict)
            case Accepted(handler, params):
                self._send(handler(Request(self._head, params, body)))

    def _refuse(self, error: ClientError) -> None:
        """Answer what broke HTTP, and close."""
        self._is_last = True
        self._send(self._application.refuse(error))

    def _send(self, reply: Reply) -> None:
        # Without its whole body read, a request leaves the connection unfit for another.
        is_unfit = self._h11.their_state in (h11.SEND_BODY, h11.ERROR)
        date = formatdate(usegmt=True).encode()
        head = build_head(reply, date, is_last=self._is_last or is_unfit)
        match reply:
            case StreamedResponse(source) if self._head.method != "HEAD":
                self._write(head)
                self._begin_stream(source)
            case Response(body=body) if body and self._head.method != "HEAD":
                self._write(head, h11.Data(data=body), h11.EndOfMessage())
                self._end_reply()
            case _:
                self._write(head, h11.EndOfMessage())
                self._end_reply()

    def _write(self, *events: Any) -> None:
        self._transport.write(b"".join(self._h11.send(event) or b"" for event in events))

    def _begin_stream(self, source: Source) -> None:
        self._phase = _Phase.STREAMING
        outlet = Outlet(
            write=lambda frames: self._write(h11.Data(data=frames)),
            finish=self._end_stream,
            abort=self.abort,
            is_writable=lambda: self._is_writable,
        )
        self._pump = Pump(source, outlet, self._limits, self._loop)

    def _end_stream(self, frames: bytes) -> None:
        self._pump = None
        self._write(h11.Data(data=frames), h11.EndOfMessage())
        self._end_reply()
        self._read_on()

    def _end_reply(self) -> None:
        self._head = _NO_HEAD
        is_reusable = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        if is_reusable and not self._is_last:
            self._h11.start_next_cycle()
            self._phase = _Phase.READING
        else:
            self._begin_linger()

    def _begin_linger(self) -> None:
        """Close our half and read on: unread bytes would make the kernel send a reset instead."""
        self._phase = _Phase.LINGERING
        self._inbox.clear()
        self._body.clear()
        if self._has_eof or self._transport.is_closing():
            self._close()
            return
        self._transport.write_eof()
        self._lingering = self._loop.call_later(self._limits.linger_s, self._close)

    def _close(self) -> None:
        self._phase = _Phase.CLOSED
        self._transport.close()
        for handle in (self._lingering, self._turn):
            if handle is not None:
                handle.cancel()
        if self._pump is not None:
            self._pump.stop()
            self._pump = None

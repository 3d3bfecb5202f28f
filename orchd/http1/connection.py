"""One HTTP/1.1 connection: an ``asyncio.Protocol`` on one side, h11 on the other.

The way of a request: bytes → h11 → head → ``Application.open`` (token, route) → body → handler →
reply → h11 → bytes. Everything is a synchronous step of the event loop; a streamed reply is left to
a pump.

Invariants: ``_phase`` says whose turn it is and only ``_begin_*`` and ``_close`` set it; requests
are answered in the order in which they came; what a client sends ahead of its turn is bounded, as
is what it does not read; nothing of a connection outlives ``connection_lost``.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, Protocol, cast

import h11

from orchd.errors import ClientError, Code
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


_CODES = {431: Code.HEADERS_TOO_LARGE, 501: Code.NOT_IMPLEMENTED}
"""h11's status hints that are more than a plain bad request."""

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
        self._ahead_bytes = 0

    # -- what the transport tells us ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._phase in (_Phase.LINGERING, _Phase.CLOSED):
            return
        self._h11.receive_data(data)
        self._advance()
        if self._phase is not _Phase.READING or not self._is_writable:
            self._ahead_bytes += len(data)
            if self._ahead_bytes > self._limits.ahead_bytes:
                self._transport.pause_reading()

    def eof_received(self) -> bool:
        """A client may close its half and still read; a write finds out whether it does."""
        if self._phase is _Phase.LINGERING:
            self._close()
            return False
        self._h11.receive_data(b"")
        if self._pump is not None:
            self._pump.ping()
        self._advance()
        return True

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._is_writable = True
        if self._pump is not None:
            self._pump.wake()
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        self._close()
        self._owner.closed(self)

    # -- what the owner asks -----------------------------------------------------------------

    def finish(self) -> None:
        """Take no further request: close when idle, else after the reply that is under way."""
        self._is_last = True
        if self._phase is _Phase.READING and self._h11.their_state is h11.IDLE:
            self._close()

    def abort(self) -> None:
        """Drop the client at once, whatever is under way."""
        self._close()
        self._transport.abort()

    # -- reading -----------------------------------------------------------------------------

    def _read_on(self) -> None:
        if self._phase is _Phase.READING and self._is_writable and self._ahead_bytes:
            self._ahead_bytes = 0
            self._transport.resume_reading()
        self._advance()

    def _advance(self) -> None:
        """Take events from h11 for as long as it is the client's turn."""
        try:
            while self._phase is _Phase.READING and self._is_writable:
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    self._invite_body()
                    return
                self._take(cast(h11.Event, event))
        except h11.RemoteProtocolError as error:
            code = _CODES.get(error.error_status_hint, Code.INVALID_PARAMS)
            self._refuse(ClientError(code, f"not HTTP/1.1: {error}"))
        except ClientError as error:
            self._refuse(error)

    def _take(self, event: h11.Event) -> None:
        match event:
            case h11.Request():
                self._open(event)
            case h11.Data():
                self._body += event.data
                if len(self._body) > self._limits.body_bytes:
                    raise _too_large(self._limits.body_bytes)
            case h11.EndOfMessage():
                self._answer()
            case h11.ConnectionClosed():
                self._close()
            case _:
                raise AssertionError(f"h11 gave a server {event!r}")

    def _open(self, event: h11.Request) -> None:
        if event.http_version not in (b"1.0", b"1.1"):
            version = event.http_version.decode("ascii")
            raise ClientError(
                Code.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version} is not spoken here, 1.1 is"
            )
        path, _, query = event.target.decode("ascii").partition("?")
        headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
        self._head = head = Head(event.method.decode("ascii"), path, query, headers)
        self._verdict = self._application.open(head)
        if isinstance(self._verdict, Response):
            if _announces_body(head):
                self._send(self._verdict)
        elif int(head.value(b"content-length") or b"0") > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)

    def _invite_body(self) -> None:
        if self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))

    # -- answering ---------------------------------------------------------------------------

    def _answer(self) -> None:
        """The request is whole: call its handler, or give the answer that its head earned."""
        verdict, body = self._verdict, bytes(self._body)
        self._verdict, self._body = None, bytearray()
        match verdict:
            case Response():
                self._send(verdict)
            case Accepted(handler, params):
                self._send(handler(Request(self._head, params, body)))
            case None:
                raise AssertionError("a request ended before its head was judged")

    def _refuse(self, error: ClientError) -> None:
        """Answer what broke HTTP, where an answer can still be given, and close."""
        self._is_last = True
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send(self._application.refuse(error))
        else:
            self._close()

    def _send(self, reply: Reply) -> None:
        headers = [*reply.headers, (b"date", formatdate(usegmt=True).encode())]
        # Without its whole body read, a request leaves the connection unfit for another.
        if self._is_last or self._h11.their_state is not h11.DONE:
            headers.append((b"connection", b"close"))
        # No length on a 204 (RFC 9110, section 8.6).
        if isinstance(reply, Response) and reply.status != HTTPStatus.NO_CONTENT:
            headers.append((b"content-length", b"%d" % len(reply.body)))
        reason = HTTPStatus(reply.status).phrase.encode()
        head = h11.Response(status_code=reply.status, headers=headers, reason=reason)
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
            is_writable=lambda: self._is_writable,
        )
        limits = self._limits
        self._pump = Pump(source, outlet, limits.pull_bytes, limits.ping_s, self._loop)

    def _end_stream(self, frames: bytes) -> None:
        self._pump = None
        self._write(h11.Data(data=frames), h11.EndOfMessage())
        self._end_reply()
        self._read_on()

    def _end_reply(self) -> None:
        self._head = _NO_HEAD
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._phase = _Phase.READING
            if self._is_last:
                self._close()
        elif self._h11.their_state in (h11.SEND_BODY, h11.ERROR):
            self._begin_linger()
        else:
            self._close()

    def _begin_linger(self) -> None:
        """Close our half and read on: unread bytes would make the kernel send a reset instead."""
        self._phase = _Phase.LINGERING
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._lingering = self._loop.call_later(self._limits.linger_s, self._close)

    def _close(self) -> None:
        self._phase = _Phase.CLOSED
        if self._pump is not None:
            self._pump.stop()
            self._pump = None
        if self._lingering is not None:
            self._lingering.cancel()
        self._transport.close()


def _announces_body(head: Head) -> bool:
    lengths = head.values(b"content-length")
    return bool(head.values(b"transfer-encoding")) or any(int(value) for value in lengths)


def _too_large(limit_bytes: int) -> ClientError:
    return ClientError(Code.PAYLOAD_TOO_LARGE, f"the body is larger than {limit_bytes} bytes")

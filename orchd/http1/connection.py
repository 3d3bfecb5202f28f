"""One HTTP/1.1 connection: an ``asyncio.Protocol`` on one side, the application on the other.

The way of a request: bytes → parser → head → ``Application.open`` (token, route) → body → handler →
reply → bytes. Everything is a synchronous step of the event loop; the replies are given by
``Delivery``. Each step ends in ``_settle``, which sees to it that no client is waited for without
an end.

Invariants: ``_watch.phase`` says whose move it is; requests are answered in the order in which they
came; what a client sends ahead of its turn is bounded, as is what it does not read, and every wait
for it; nothing of a connection outlives ``connection_lost``.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, assert_never, cast

import h11

from orchd.errors import ClientError
from orchd.http1 import intake
from orchd.http1.deadlines import READING, Expiry, Phase
from orchd.http1.delivery import Delivery
from orchd.http1.exchange import Exchange
from orchd.http1.limits import Limits
from orchd.http1.messages import Application, Reply, Response
from orchd.http1.parser import Parser, Signal
from orchd.http1.peer import describe_peer
from orchd.http1.watch import Watch


class Owner(Protocol):
    """Who keeps account of the connections."""

    def opened(self, connection: Connection) -> None:
        """The connection lives."""

    def closed(self, connection: Connection) -> None:
        """The connection is gone, with all that it held."""


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
        self._exchange = Exchange(application, limits)
        self._owner = owner
        self._limits = limits
        self._loop = loop
        self._parser = Parser(limits)
        self._has_eof = False
        self._turn: asyncio.Handle | None = None

    # -- what the transport tells us ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._exchange.peer = describe_peer(transport)
        limits = self._limits
        self._transport.set_write_buffer_limits(limits.write_high_bytes, limits.write_low_bytes)
        unsent_bytes = self._transport.get_write_buffer_size
        self._watch = Watch(limits, self._loop, unsent_bytes, self._expire)
        carried = (self._transport, self._watch, limits, self._loop)
        self._delivery = Delivery(*carried, end=self._end_later, abort=self.abort)
        self._owner.opened(self)
        self._settle()

    def data_received(self, data: bytes) -> None:
        if self._watch.phase in (Phase.LINGERING, Phase.CLOSED):
            return
        self._parser.feed(data)
        self._read_on()

    def eof_received(self) -> bool:
        """A client may close its half and still read; writing finds out whether it does."""
        self._has_eof = True
        if self._watch.phase in (Phase.LINGERING, Phase.CLOSED):
            self._close()
            self._settle()
            return False
        self._parser.feed_eof()
        self._delivery.probe()
        self._read_on()
        return True

    def pause_writing(self) -> None:
        self._delivery.is_writable = False

    def resume_writing(self) -> None:
        self._delivery.wake()
        self._read_on()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._close()
        finally:
            self._watch.stop()
            self._owner.closed(self)

    # -- what the owner asks -----------------------------------------------------------------

    def turn_away(self, reply: Response) -> None:
        """Give this answer, whatever was asked, and close."""
        self._delivery.is_last = True
        self._send(reply)

    def finish(self) -> None:
        """Take no further request: close when idle, else after the reply that is under way."""
        self._delivery.is_last = True
        if self._watch.phase in (Phase.OPENED, Phase.IDLE) and not self._parser.waiting_bytes:
            self._close()
            self._settle()

    def abort(self) -> None:
        """Drop the client at once, whatever is under way."""
        self._transport.abort()
        self._close()
        self._watch.stop()

    # -- time --------------------------------------------------------------------------------

    def _settle(self) -> None:
        """A step is over: read on or not, and wait for what comes until when."""
        self._regulate_reading()
        self._watch.settle()

    def _expire(self, expiry: Expiry) -> None:
        match expiry:
            case Expiry.REFUSE:
                self._refuse(intake.too_slow(self._watch.phase, self._limits))
            case Expiry.CLOSE:
                self._close()
            case Expiry.ABORT:
                self.abort()
            case Expiry.LOOK:
                pass
            case _:
                assert_never(expiry)

    # -- reading -----------------------------------------------------------------------------

    def _read_on(self) -> None:
        """Go on with what the client sent, unless a loop turn is booked for that."""
        if self._turn is None:
            self._advance()
        else:
            self._settle()

    def _advance(self) -> None:
        self._turn = None
        self._parser.start_turn()
        try:
            self._take_events()
        except ClientError as error:
            self._refuse(error)
        self._settle()

    def _take_events(self) -> None:
        """Take what came for as long as it is the client's move.

        A slice of it, and the rest in later loop turns: else a client that sends thousands of
        requests at once would hold up everybody for seconds.
        """
        while self._watch.phase in READING and self._delivery.is_writable:
            match self._parser.next_event():
                case h11.Request() as event:
                    self._open(event)
                case bytes() as part:
                    self._exchange.add(part)
                case Signal.END:
                    self._send(self._exchange.answer())
                case Signal.NEED_DATA:
                    self._await_data()
                    return
                case Signal.NEXT_TURN:
                    self._turn = self._loop.call_soon(self._advance)
                    return
                case Signal.CLOSED:
                    self._close()

    def _await_data(self) -> None:
        match self._watch.phase:
            case Phase.OPENED | Phase.IDLE if self._parser.waiting_bytes:
                self._watch.enter(Phase.HEAD)
            case Phase.BODY if self._exchange.awaits_body and not self._parser.waiting_bytes:
                if self._exchange.awaits_continue:
                    self._exchange.awaits_continue = False
                    self._delivery.invite()

    def _regulate_reading(self) -> None:
        """Read no more while too much waits for its turn; what it waits for comes back here."""
        # After its end a stream must not be read again, or it would end again.
        if self._has_eof or self._watch.phase is Phase.CLOSED or self._transport.is_closing():
            return
        if self._parser.waiting_bytes > self._limits.ahead_bytes and not self._parser.needs_data:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _open(self, event: h11.Request) -> None:
        answer = self._exchange.open(event)
        if answer is not None:
            self._send(answer)
            return
        self._parser.expect_body(self._exchange.head)
        if self._exchange.awaits_body:
            self._watch.enter(Phase.BODY)

    # -- answering ---------------------------------------------------------------------------

    def _refuse(self, error: ClientError) -> None:
        """Answer what broke HTTP, and close."""
        self.turn_away(self._exchange.refuse(error))

    def _send(self, reply: Reply) -> None:
        if self._delivery.deliver(reply, self._exchange.head, is_last=not self._is_reusable):
            self._end_reply()

    @property
    def _is_reusable(self) -> bool:
        """Without its whole body read, a request leaves the connection unfit for another."""
        return self._parser.is_whole and not self._exchange.is_last

    def _end_later(self) -> None:
        self._end_reply()
        self._read_on()

    def _end_reply(self) -> None:
        is_reusable = self._is_reusable and not self._delivery.is_last
        self._exchange.end()
        if is_reusable:
            self._parser.start_next()
            self._watch.enter(Phase.IDLE)
        else:
            self._begin_linger()

    def _begin_linger(self) -> None:
        """Close our half and read on: unread bytes would make the kernel send a reset instead."""
        self._watch.enter(Phase.LINGERING)
        self._parser.drop()
        if self._has_eof or self._transport.is_closing():
            self._close()
        else:
            self._transport.write_eof()

    def _close(self) -> None:
        """Give back everything but the watch: the kernel may still have to take our last bytes."""
        self._watch.enter(Phase.CLOSED)
        self._transport.close()
        if self._turn is not None:
            self._turn.cancel()
        self._delivery.stop()

"""Delivers replies to one client: at once, bit by bit by a pump, or later by a waiter.

Invariants: one reply is under way at a time; no byte is written elsewhere; after ``stop`` no pump
and no waiter is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, assert_never

import h11

from orchd.http1.date import format_date
from orchd.http1.deadlines import Phase
from orchd.http1.limits import Limits
from orchd.http1.messages import PendingResponse, Reply, Response, Source, StreamedResponse
from orchd.http1.outgoing import build_head
from orchd.http1.pump import Outlet, Pump
from orchd.http1.waiter import Waiter
from orchd.http1.watch import Watch


class Delivery:
    """``end`` is called when a reply that took longer is over, ``abort`` when a stream broke."""

    def __init__(
        self,
        machine: h11.Connection,
        transport: asyncio.WriteTransport,
        watch: Watch,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        end: Callable[[], None],
        abort: Callable[[], None],
    ) -> None:
        self._h11 = machine
        self._transport = transport
        self._watch = watch
        self._limits = limits
        self._loop = loop
        self._end = end
        self._abort = abort
        self._carrier: Pump | Waiter | None = None
        self._has_eof = False
        self.is_writable = True
        """False while the kernel lags too far behind."""
        self.is_last = False
        """True once no reply may follow the one that is due."""

    def deliver(self, reply: Reply, *, wants_body: bool) -> bool:
        """Give the reply that is due; True if that is all of it, else ``end`` will be called."""
        match reply:
            case PendingResponse():
                self._wait(reply, wants_body)
                return False
            case StreamedResponse(source) if wants_body:
                self._write(self._build_head(reply))
                self._stream(source)
                return False
            case Response(body=body) if body and wants_body:
                self._write(self._build_head(reply), h11.Data(data=body), h11.EndOfMessage())
                return True
            case Response() | StreamedResponse():
                self._write(self._build_head(reply), h11.EndOfMessage())
                return True
            case _:
                assert_never(reply)

    def invite(self) -> None:
        """Say that a body is wanted, or that its reply is still under way (RFC 9110, 15.2)."""
        # HTTP/1.0 knows of no such thing.
        if self._h11.their_http_version != b"1.0":
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
            self._watch.settle()

    def probe(self) -> None:
        """The client has closed its half; it may be gone."""
        self._has_eof = True
        if self._carrier is not None:
            self._carrier.probe()

    def wake(self) -> None:
        """The kernel takes more."""
        self.is_writable = True
        if self._carrier is not None:
            self._carrier.wake()

    def stop(self) -> None:
        """Nothing more is sent."""
        if self._carrier is not None:
            self._carrier.stop()
            self._carrier = None

    def _build_head(self, reply: Response | StreamedResponse) -> h11.Response:
        # Without its whole body read, a request leaves the connection unfit for another.
        is_unfit = self._h11.their_state in (h11.SEND_BODY, h11.ERROR)
        date = format_date(int(time.time()))
        return build_head(reply, date, is_last=self.is_last or is_unfit)

    def _write(self, *events: Any) -> None:
        data = b"".join(self._h11.send(event) or b"" for event in events)
        self._watch.note_write(len(data))
        self._transport.write(data)

    # -- later -------------------------------------------------------------------------------

    def _wait(self, pending: PendingResponse, wants_body: bool) -> None:
        self._watch.enter(Phase.PENDING)
        answer = partial(self._answer, wants_body)
        self._carrier = Waiter(pending, answer, self.invite, self._loop)
        if self._has_eof:
            self._carrier.probe()

    def _answer(self, wants_body: bool, reply: Response) -> None:
        self._carrier = None
        self.deliver(reply, wants_body=wants_body)
        self._end()

    # -- bit by bit --------------------------------------------------------------------------

    def _stream(self, source: Source) -> None:
        self._watch.enter(Phase.STREAMING)
        outlet = Outlet(
            write=self._write_frames,
            finish=self._finish_stream,
            abort=self._abort,
            is_writable=lambda: self.is_writable,
        )
        self._carrier = Pump(source, outlet, self._limits, self._loop)

    def _write_frames(self, frames: bytes) -> None:
        self._write(h11.Data(data=frames))
        self._watch.settle()

    def _finish_stream(self, frames: bytes) -> None:
        self._carrier = None
        self._write(h11.Data(data=frames), h11.EndOfMessage())
        self._end()

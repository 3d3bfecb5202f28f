"""Delivers replies to one client: at once, bit by bit by a pump, or later by a waiter.

Invariants: one reply is under way at a time; no byte is written elsewhere; after ``stop`` no pump
and no waiter is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import assert_never

from orchd.http1.date import format_date
from orchd.http1.deadlines import Phase
from orchd.http1.limits import Limits
from orchd.http1.messages import Head, PendingResponse, Reply, Response, Source, StreamedResponse
from orchd.http1.outgoing import INTERIM, LAST_CHUNK, build_head, frame_chunk
from orchd.http1.pump import Pump
from orchd.http1.waiter import Waiter
from orchd.http1.watch import Watch


class Delivery:
    """``end`` is called when a reply that took longer is over, ``abort`` when a stream broke."""

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        watch: Watch,
        limits: Limits,
        loop: asyncio.AbstractEventLoop,
        end: Callable[[], None],
        abort: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._watch = watch
        self._limits = limits
        self._loop = loop
        self._end = end
        self.abort = abort
        """Drop the client: a stream broke."""
        self._carrier: Pump | Waiter | None = None
        self._has_eof = False
        self._is_chunked = False
        """True while a stream's parts are framed; else its end is the connection's."""
        self.is_writable = True
        """False while the kernel lags too far behind."""
        self.is_last = False
        """True once no reply may follow the one that is due."""

    def deliver(self, reply: Reply, head: Head, *, is_last: bool) -> bool:
        """Answer the request with that head; True if that is all, else ``end`` will be called."""
        wants_body = head.method != "HEAD"
        match reply:
            case Response(body=body):
                self._write(self._build_head(reply, is_last) + (body if wants_body else b""))
                return True
            case StreamedResponse(source):
                # HTTP/1.0 knows no chunks.
                self._is_chunked = head.version >= b"1.1"
                self._write(self._build_head(reply, is_last, self._is_chunked))
                if wants_body:
                    self._stream(source)
                return not wants_body
            case PendingResponse():
                self._wait(reply, head, is_last)
                return False
            case _:
                assert_never(reply)

    def invite(self) -> None:
        """Say that the body is wanted."""
        self._write(INTERIM)
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

    def _build_head(
        self, reply: Response | StreamedResponse, is_last: bool, is_chunked: bool = False
    ) -> bytes:
        is_last = is_last or self.is_last
        date = format_date(int(time.time()))
        return build_head(reply, date, is_last=is_last, is_chunked=is_chunked)

    def _write(self, data: bytes) -> None:
        self._watch.note_write(len(data))
        self._transport.write(data)

    # -- later -------------------------------------------------------------------------------

    def _wait(self, pending: PendingResponse, head: Head, is_last: bool) -> None:
        self._watch.enter(Phase.PENDING)
        answer = partial(self._answer, head, is_last)
        # HTTP/1.0 knows of no interim word.
        invite = self.invite if head.version >= b"1.1" else lambda: None
        self._carrier = Waiter(pending, answer, invite, self._loop)
        if self._has_eof:
            self._carrier.probe()

    def _answer(self, head: Head, is_last: bool, reply: Response) -> None:
        self._carrier = None
        self.deliver(reply, head, is_last=is_last)
        self._end()

    # -- bit by bit --------------------------------------------------------------------------

    def _stream(self, source: Source) -> None:
        self._watch.enter(Phase.STREAMING)
        self._carrier = Pump(source, self, self._limits, self._loop)

    def write_part(self, frames: bytes) -> None:
        """Send a part of the stream that is under way."""
        self._write(frame_chunk(frames) if self._is_chunked else frames)
        self._watch.note_sent()

    def finish(self, frames: bytes) -> None:
        """Send the last part, and its end."""
        self._carrier = None
        self._write(frame_chunk(frames) + LAST_CHUNK if self._is_chunked else frames)
        self._end()

"""The HTTP client to a replica: one request, one connection, closed to cancel and never reused.

llama.cpp closes the connection after every stream whatever its headers say (measured), and only a
closed connection stops an engine's work; so there is nothing to pool. A 200 answer's body goes to
its receiver chunk by chunk, within the loop turn that brought it.

Invariant: when ``exchange`` returns or raises, cancellation included, its connection is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import h11

from orchd.engines.adapter import Endpoint, EngineRequest
from orchd.engines.answer_body import AnswerBody, choose_body
from orchd.errors import EngineError

_HUNG_UP = "hung up before the end of its answer"
_NOT_HTTP = "does not answer in HTTP"
CONNECT_TIMEOUT_S = 5.0
"""On loopback a connection stands at once or is refused, unless the backlog of an engine that hangs
is full: then the system tries for minutes."""
MAX_ANSWER_BYTES = 1024 * 1024
"""How much of an answer is kept where nobody takes it as it comes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``body`` is empty where a receiver took it."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Receiver:
    """Takes a 200 answer as it comes. What either raises ends the exchange, and comes out of it."""

    on_accepted: Callable[[], None]
    """The engine has said 200; for a generation: it has a slot."""
    on_body: Callable[[bytes], bool | None]
    """True when it has heard enough: the rest of the answer is not waited for."""


async def exchange(
    endpoint: Endpoint,
    request: EngineRequest,
    receiver: Receiver | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
) -> Answer:
    """Ask one replica one thing, and wait for the end of its answer.

    Raises EngineError when it cannot be reached in time, hangs up before the end of its answer, or
    answers what is not HTTP.
    """
    loop = asyncio.get_running_loop()
    protocol = _ExchangeProtocol(endpoint, request, receiver, loop.create_future())
    try:
        try:
            async with asyncio.timeout(connect_timeout_s):
                await loop.create_connection(protocol.factory, endpoint.host, endpoint.port)
        except TimeoutError as error:
            reason = f"does not accept connections within {connect_timeout_s:g} s"
            raise EngineError(reason) from error
        except OSError as error:
            raise EngineError(f"does not accept connections ({error.strerror or error})") from error
        return await protocol.answer
    finally:
        protocol.stop()
        # An error in its answer holds this frame: a circle that would keep the task's log.
        del protocol


class _ExchangeProtocol(asyncio.Protocol):
    """Sends the request, reads the answer; ``answer`` gets it, or the EngineError."""

    def __init__(
        self,
        endpoint: Endpoint,
        request: EngineRequest,
        receiver: Receiver | None,
        answer: asyncio.Future[Answer],
    ) -> None:
        self.answer = answer
        self._endpoint = endpoint
        self._request = request
        self._receiver = receiver
        self._h11 = h11.Connection(h11.CLIENT)
        self._status = 0
        self._body: AnswerBody | None = None
        """None until the head has come."""
        self._take: Callable[[bytes], bool | None] | None = None
        self._kept = bytearray()
        self._transport: asyncio.Transport | None = None

    def factory(self) -> _ExchangeProtocol:
        """What ``create_connection`` calls for a protocol."""
        return self

    def stop(self) -> None:
        """Close the connection at once; to flush into an engine that hangs would take for ever."""
        self.answer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        endpoint, request = self._endpoint, self._request
        head = h11.Request(
            method=request.method,
            target=request.path,
            headers=[
                ("Host", f"{endpoint.host}:{endpoint.port}"),
                ("Authorization", f"Bearer {endpoint.key}"),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(request.body))),
                ("Connection", "close"),
            ],
        )
        events = (head, h11.Data(data=request.body), h11.EndOfMessage())
        self._transport.write(b"".join(self._h11.send(event) or b"" for event in events))

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        try:
            if self._body is None:
                self._read_head(data)
            else:
                self._read_body(self._body, data)
        except h11.RemoteProtocolError as error:
            # What h11 says behind the colon are the engine's bytes: maybe a token, and no matter.
            self._fail(EngineError(f"{_NOT_HTTP}: {str(error).partition(':')[0]}"))
        except EngineError as error:
            # Its traceback holds this protocol, which holds its answer: a circle again.
            self._fail(error.with_traceback(None))
        except Exception as error:  # a receiver's bug too is for the one who awaits the answer
            if self.answer.done():
                raise
            self._fail(error)

    def eof_received(self) -> None:
        if self._body is not None and self._body.ends_with_connection:
            self._succeed()
        else:
            self._fail(EngineError(_HUNG_UP))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(EngineError(_HUNG_UP))

    def _read_head(self, data: bytes) -> None:
        self._h11.receive_data(data)
        while True:
            event: Any = self._h11.next_event()
            match event:
                case h11.Response(status_code=status, headers=headers):
                    self._status = status
                    self._body = choose_body(status, headers)
                    if status == 200 and self._receiver is not None:
                        self._receiver.on_accepted()
                        self._take = self._receiver.on_body
                    self._read_body(self._body, self._h11.trailing_data[0])
                    return
                case h11.InformationalResponse():
                    pass
                case _:
                    return

    def _read_body(self, body: AnswerBody, data: bytes) -> None:
        part = body.feed(data)
        if part and not self.answer.done():  # a receiver may have it cancelled
            if self._take is None:
                self._keep(part)
            elif self._take(part):
                self._succeed()
        if body.fault is not None:
            self._fail(EngineError(f"{_NOT_HTTP}: {body.fault}"))
        elif body.is_whole:
            self._succeed()

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > MAX_ANSWER_BYTES:
            raise EngineError(f"answered with more than {MAX_ANSWER_BYTES} bytes")

    def _succeed(self) -> None:
        if not self.answer.done():
            self.answer.set_result(Answer(self._status, bytes(self._kept)))

    def _fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

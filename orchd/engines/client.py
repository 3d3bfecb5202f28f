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
from orchd.errors import EngineError

MAX_ANSWER_BYTES = 1024 * 1024
"""How much of an answer is kept where nobody takes it as it comes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; ``body`` is empty where a receiver took it."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Receiver:
    """Takes a 200 answer as it comes. Either may raise EngineError, which ends the exchange."""

    on_accepted: Callable[[], None]
    """The engine has said 200; for a generation: it has a slot."""
    on_body: Callable[[bytes], None]


async def exchange(
    endpoint: Endpoint, request: EngineRequest, receiver: Receiver | None = None
) -> Answer:
    """Ask one replica one thing, and wait for the end of its answer.

    Raises EngineError when it cannot be reached, hangs up before the end of its answer, or answers
    what is not HTTP.
    """
    loop = asyncio.get_running_loop()
    protocol = _ExchangeProtocol(endpoint, request, receiver, loop.create_future())
    try:
        transport, _ = await loop.create_connection(lambda: protocol, endpoint.host, endpoint.port)
    except OSError as error:
        raise EngineError(f"does not accept connections ({error.strerror or error})") from error
    try:
        return await protocol.answer
    finally:
        transport.close()


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
        self._take: Callable[[bytes], None] = self._keep
        self._kept = bytearray()

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
            self._h11.receive_data(data)
            self._advance()
        except h11.RemoteProtocolError as error:
            self._fail(EngineError(f"does not answer in HTTP: {error}"))
        except EngineError as error:
            self._fail(error)

    def eof_received(self) -> None:
        self.data_received(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(EngineError("hung up before the end of its answer"))

    def _advance(self) -> None:
        while True:
            event: Any = self._h11.next_event()
            match event:
                case h11.Response(status_code=status):
                    self._status = status
                    if status == 200 and self._receiver is not None:
                        self._receiver.on_accepted()
                        self._take = self._receiver.on_body
                case h11.Data(data=data):
                    self._take(bytes(data))
                case h11.EndOfMessage():
                    self.answer.set_result(Answer(self._status, bytes(self._kept)))
                    return
                case h11.InformationalResponse():
                    pass
                case _:  # NEED_DATA, or the connection's end that connection_lost will tell
                    return

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > MAX_ANSWER_BYTES:
            raise EngineError(f"answered with more than {MAX_ANSWER_BYTES} bytes")

    def _fail(self, error: EngineError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)
        self._transport.close()

"""The least that a program on uvloop can do: pass bytes on (``pipe``), or have h11 read requests
and write one answer to each (``answer``). What a daemon does on top of it is its own.

Run as ``floor_app.py pipe PORT ENGINE_PORT`` or ``floor_app.py answer PORT ANSWER_FILE``.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import h11
import uvloop

HOST = "127.0.0.1"


class _Upstream(asyncio.Protocol):
    """The engine's side of a pipe."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.close()


class Pipe(asyncio.Protocol):
    """A client's side of a pipe; its request comes in one piece, as the benchmark's do."""

    def __init__(self, engine_port: int) -> None:
        self._engine_port = engine_port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._task = asyncio.ensure_future(self._connect(data))

    async def _connect(self, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        make: Callable[[], asyncio.Protocol] = lambda: _Upstream(self._transport)  # noqa: E731
        transport, _ = await loop.create_connection(make, HOST, self._engine_port)
        transport.write(request)


class Answerer(asyncio.Protocol):
    """One connection that h11 alone serves."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._h11 = h11.Connection(h11.SERVER)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if (written := answer_one(self._h11, data, self._answer)) is not None:
            self._transport.write(written)


def answer_one(connection: h11.Connection, data: bytes, answer: bytes) -> bytes | None:
    """What h11 writes once ``data`` ends a request: an answer like ``answer``."""
    connection.receive_data(data)
    event: Any = connection.next_event()
    while not isinstance(event, h11.EndOfMessage):
        if event is h11.NEED_DATA:
            return None
        event = connection.next_event()
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    headers = [(name, value.strip()) for name, _, value in (f.partition(b":") for f in fields)]
    response = h11.Response(status_code=int(line[9:12]), headers=headers, reason=line[13:])
    events = (response, h11.Data(data=body), h11.EndOfMessage())
    written = b"".join(connection.send(event) or b"" for event in events)
    connection.start_next_cycle()
    return written


async def _serve(port: int, make: Callable[[], asyncio.Protocol]) -> None:
    server = await asyncio.get_running_loop().create_server(make, HOST, port)
    await server.serve_forever()


if __name__ == "__main__":
    _, kind, own_port, other = sys.argv
    if kind == "pipe":
        uvloop.run(_serve(int(own_port), lambda: Pipe(int(other))))
    else:
        kept = Path(other).read_bytes()
        uvloop.run(_serve(int(own_port), lambda: Answerer(kept)))

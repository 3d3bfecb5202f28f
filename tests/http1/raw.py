"""Raw bytes to a server on loopback, and what comes back, read without the code under test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from orchd.config.listen import Listen
from orchd.http1.limits import Limits
from orchd.http1.messages import Application
from orchd.http1.server import HttpServer

SETTLE_TURNS = 2000
STOP_TIMEOUT_S = 5.0
GET = b"GET /echo HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Answer:
    """One response; ``chunks`` only where it was chunked."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes
    chunks: list[bytes]

    def envelope(self) -> dict[str, str | None]:
        """The body, proven to be the envelope."""
        assert self.headers["content-type"] == "application/json"
        envelope = json.loads(self.body)
        assert list(envelope) == ["code", "message", "engine"]
        assert len(self.body) < 1024, "an error message has no need to be long"
        return dict(envelope)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes) -> Answer:
        await self.send(data)
        return await self.answer(is_head=data.startswith(b"HEAD "))

    async def head(self) -> tuple[int, str, dict[str, str]]:
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        version, status, reason = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        fields = [line.split(": ", 1) for line in lines[1:-2]]
        assert len({name.lower() for name, _ in fields}) == len(fields), lines
        return int(status), reason, {name.lower(): value for name, value in fields}

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def answer(self, is_head: bool = False) -> Answer:
        status, reason, headers = await self.head()
        body, chunks = b"", []
        if is_head or status in (100, 204):
            pass
        elif "content-length" in headers:
            body = await self.reader.readexactly(int(headers["content-length"]))
        elif headers.get("transfer-encoding") == "chunked":
            while chunk := await self.chunk():
                chunks.append(chunk)
            body = b"".join(chunks)
        else:
            assert headers["connection"] == "close"
            body = await self.reader.read()
        return Answer(status, reason, headers, body, chunks)

    async def is_closed(self) -> bool:
        """True if the server sends nothing more and closes in order."""
        return await self.reader.read() == b""

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def serving(
    application: Application, limits: Limits | None = None
) -> AsyncIterator[tuple[HttpServer, Listen]]:
    """A server on a free port of loopback; nothing of it is left at the end."""
    server = HttpServer(application, limits)
    try:
        listen = await server.start(Listen("127.0.0.1", 0))
        assert isinstance(listen, Listen)
        yield server, listen
    finally:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await server.stop(0)


@asynccontextmanager
async def client_of(listen: Listen) -> AsyncIterator[Client]:
    client = Client(*await asyncio.open_connection(listen.host, listen.port))
    try:
        yield client
    finally:
        client.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def one_client(
    application: Application, limits: Limits | None = None
) -> AsyncIterator[Client]:
    async with serving(application, limits) as (_, listen), client_of(listen) as client:
        yield client


async def settle(is_so: Callable[[], object]) -> None:
    """Wait until it is so; sockets take a few loop turns for everything."""
    for turn in range(SETTLE_TURNS):
        if is_so():
            return
        await asyncio.sleep(0 if turn < 100 else 0.001)
    raise AssertionError("it never came to be so")

"""Clients within this process: the standard library's, httpx, and bare asyncio streams."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from typing import TypeVar

import httpx
from httpx_sse import EventSource

from tests.e2e.clients.client import TIMEOUT_S, Answer, Event, parse_events, parse_head

T = TypeVar("T")


class StandardClient:
    """``http.client``: one connection for all questions, and another for all streams."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        self._beside = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        for connection in (self._connection, self._beside):
            # Else it would open a lost one again and say nothing.
            connection.auto_open = 0
            connection.connect()

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        self._connection.request(method, path, body, dict(headers))
        with self._connection.getresponse() as response:
            answer = Answer(response.status, _lower(response.getheaders()), response.read())
        if answer.headers.get("connection") == "close":
            self._connection.connect()
        return answer

    @contextlib.contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[Answer, Iterator[Event]]]:
        self._beside.request("GET", path, headers=dict(headers))
        with self._beside.getresponse() as response:
            head = Answer(response.status, _lower(response.getheaders()), b"")
            yield head, parse_events(response)
            is_whole = response.isclosed()
        if not is_whole:
            self._beside.close()
            self._beside.connect()

    def close(self) -> None:
        self._connection.close()
        self._beside.close()


class HttpxClient:
    """httpx with httpx-sse; its pool keeps connections."""

    def __init__(self, port: int) -> None:
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=TIMEOUT_S, trust_env=False
        )

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        response = self._client.request(method, path, content=body, headers=headers)
        return Answer(response.status_code, response.headers, response.content)

    @contextlib.contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[Answer, Iterator[Event]]]:
        with self._client.stream("GET", path, headers=headers) as response:
            events = (
                Event(event.id, event.event, event.data)
                for event in EventSource(response).iter_sse()
            )
            yield Answer(response.status_code, response.headers, b""), events

    def close(self) -> None:
        self._client.close()


class StreamsClient:
    """Bytes over asyncio's streams, parsed by hand; one connection for all questions."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._runner = asyncio.Runner()
        self._kept = self._connect()

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        reader, writer = self._kept

        async def talk() -> Answer:
            writer.write(_request(method, path, headers, body))
            head = parse_head(await _read_head(reader))
            length = int(head.headers.get("content-length", 0))
            content = b"" if method == "HEAD" else await reader.readexactly(length)
            return Answer(head.status, head.headers, content)

        answer = self._run(talk())
        if answer.headers.get("connection") == "close":
            self._hang_up(writer)
            self._kept = self._connect()
        return answer

    @contextlib.contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[Answer, Iterator[Event]]]:
        reader, writer = self._connect()
        try:
            writer.write(_request("GET", path, headers, None))
            head = parse_head(self._run(_read_head(reader)))
            yield head, parse_events(self._lines(_chunks(reader)))
        finally:
            self._hang_up(writer)

    def close(self) -> None:
        self._hang_up(self._kept[1])
        self._runner.close()

    def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return self._run(asyncio.open_connection("127.0.0.1", self._port))

    def _hang_up(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        self._run(writer.wait_closed())

    def _lines(self, chunks: AsyncIterator[bytes]) -> Iterator[bytes]:
        # An event is never torn between two chunks, so each holds whole lines.
        while (chunk := self._run(anext(chunks, None))) is not None:
            assert chunk.endswith(b"\n\n")
            yield from chunk.splitlines(keepends=True)

    def _run(self, work: Awaitable[T]) -> T:
        return self._runner.run(asyncio.wait_for(work, TIMEOUT_S))


def _lower(fields: list[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in fields}


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


async def _read_head(reader: asyncio.StreamReader) -> list[bytes]:
    return (await reader.readuntil(b"\r\n\r\n")).splitlines()[:-1]


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int(await reader.readuntil(b"\r\n"), 16):
        yield (await reader.readexactly(size + 2)).removesuffix(b"\r\n")
    assert await reader.readexactly(2) == b"\r\n"

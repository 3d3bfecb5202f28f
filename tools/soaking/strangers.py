"""Clients that speak raw bytes, ill or not to the end: what they send, and what may come back."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from random import Random

from soaking.book import Book, Invariant
from soaking.client import Client
from soaking.pools import HURT
from tests.http1 import raw_cases
from tests.http1.raw_cases import AUTH, Case

ANSWER_TIMEOUT_S = 20.0
STALL_S = 9.0
"""Longer than a client may leave its answer unread."""
PIPELINED = 40

REFUSALS = [
    case
    for case in (*raw_cases.FRAMING, *raw_cases.HEADS)
    if case.answers and all(status >= 400 for status, _ in case.answers)
]
"""What must be refused whatever goes on."""


@dataclass(frozen=True, slots=True)
class Stranger:
    """One of them, on its way."""

    client: Client
    book: Book
    dice: Random

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that is closed at the end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.client.port)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def submit(self, tokens: int) -> str | None:
        """A task that nobody speaks of afterwards; None where it was refused."""
        body = {"pool_id": self.draw_pool(), "prompt": f"[tokens {tokens}] [every 0.01]"}
        answer = await self.client.ask("POST", "/v1/tasks", body | {"max_tokens": tokens})
        return str(answer.json()["task_id"]) if answer.status_code == 202 else None

    def draw_pool(self) -> str:
        return self.dice.choice([pool for pool in HURT if pool.is_fake and pool.slots > 1]).pool_id


async def send_malformed(stranger: Stranger) -> None:
    case: Case = stranger.dice.choice(REFUSALS)
    async with stranger.connect() as (reader, writer):
        writer.write(case.data)
        writer.write_eof()
        told = await _read_to_its_end(reader)
    wanted = b"HTTP/1.1 %d " % case.answers[0][0]
    is_kept = told.startswith(wanted) and (case.is_head or b'"code":' in told)
    stranger.book.check(Invariant.SPEAKS, is_kept, f"{case.name!r} was answered {told[:300]!r}")


async def send_a_huge_body(stranger: Stranger) -> None:
    head = b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\n%bContent-Length: %d\r\n\r\n" % (AUTH, 1 << 30)
    async with stranger.connect() as (reader, writer):
        writer.write(head + b"{" * 65_536)
        told = await _read_to_its_end(reader)
    is_kept = told.startswith(b"HTTP/1.1 413 ")
    stranger.book.check(Invariant.SPEAKS, is_kept, f"1 GiB was answered {told[:300]!r}")


async def send_byte_by_byte(stranger: Stranger) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n%b\r\n" % AUTH
    told = await _dribble(stranger, (bytes([byte]) for byte in head), 0.002)
    # On a machine that is busy elsewhere it may have been too slow.
    is_kept = told.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 503 ", b"HTTP/1.1 408 "))
    stranger.book.check(Invariant.SPEAKS, is_kept, f"byte by byte: {told[:300]!r}")


async def never_finish_the_head(stranger: Stranger) -> None:
    lines = chain([b"GET /health HTTP/1.1\r\n"], repeat(b"X-More: 1\r\n"))
    told = await _dribble(stranger, lines, 0.2)
    is_kept = told.startswith(b"HTTP/1.1 408 ")
    stranger.book.check(Invariant.SPEAKS, is_kept, f"an endless head: {told[:300]!r}")


async def vanish_in_the_body(stranger: Stranger) -> None:
    async with stranger.connect() as (_, writer):
        fields = b"Content-Type: application/json\r\nContent-Length: 100\r\n"
        writer.write(b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\n%b%b\r\n{" % (AUTH, fields))
        await writer.drain()


async def reset_in_mid_stream(stranger: Stranger) -> None:
    task_id = await stranger.submit(30)
    if task_id is None:
        return
    async with stranger.connect() as (reader, writer):
        writer.write(_ask_for_stream(task_id))
        await asyncio.wait_for(reader.read(200), ANSWER_TIMEOUT_S)
        sock: socket.socket = writer.get_extra_info("socket")
        # No goodbye: the kernel sends a reset.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def stall_in_mid_stream(stranger: Stranger) -> None:
    task_id = await stranger.submit(200)
    if task_id is None:
        return
    async with stranger.connect() as (_, writer):
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(_ask_for_stream(task_id))
        await asyncio.sleep(STALL_S)


async def pipeline_and_vanish(stranger: Stranger) -> None:
    task = json.dumps({"pool_id": stranger.draw_pool(), "prompt": "[tokens 2]"}).encode()
    fields = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(task)
    post = b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\n%b%b\r\n%b" % (AUTH, fields, task)
    async with stranger.connect() as (_, writer):
        writer.write(post * PIPELINED)
        await writer.drain()
        await asyncio.sleep(stranger.dice.random() * 0.02)


async def try_other_tokens(stranger: Stranger) -> None:
    fields = b"Authorization: Bearer %x\r\nConnection: close\r\n" % stranger.dice.getrandbits(64)
    async with stranger.connect() as (reader, writer):
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: a\r\n%b\r\n" % fields)
        told = await _read_to_its_end(reader)
    is_kept = told.startswith(b"HTTP/1.1 401 ")
    stranger.book.check(Invariant.SPEAKS, is_kept, f"another token: {told[:300]!r}")


def _ask_for_stream(task_id: str) -> bytes:
    return b"GET /v1/tasks/%b/stream HTTP/1.1\r\nHost: a\r\n%b\r\n" % (task_id.encode(), AUTH)


async def _dribble(stranger: Stranger, pieces: Iterable[bytes], every_s: float) -> bytes:
    """What is answered to pieces that come one by one; none comes any more once that is known."""
    async with stranger.connect() as (reader, writer):
        answer = asyncio.create_task(_read_to_its_end(reader))
        for piece in pieces:
            writer.write(piece)
            await asyncio.wait([answer], timeout=every_s)
            if answer.done() or writer.transport.is_closing():
                break
        return await answer


async def _read_to_its_end(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the daemon closes; what had come, where it does so rudely."""
    told = b""
    async with asyncio.timeout(ANSWER_TIMEOUT_S):
        try:
            while data := await reader.read(65_536):
                told += data
        except ConnectionError:
            # It did not wait for what was still to come of a request that it had refused.
            pass
    return told


HABITS: dict[str, tuple[int, Callable[[Stranger], Awaitable[None]]]] = {
    "client sends what is malformed": (24, send_malformed),
    "client sends 1 GiB": (4, send_a_huge_body),
    "client sends byte by byte": (6, send_byte_by_byte),
    "client never finishes a head": (4, never_finish_the_head),
    "client vanishes in its request": (6, vanish_in_the_body),
    "client resets a stream": (8, reset_in_mid_stream),
    "client stalls in a stream": (4, stall_in_mid_stream),
    "client pipelines and vanishes": (4, pipeline_and_vanish),
    "client tries other tokens": (4, try_other_tokens),
}
"""By kind of fault, its share."""

"""A client for streams that costs next to nothing while they run: it keeps what came when.

All is read and held against its promise afterwards. It is the same for every side of a comparison.
"""

from __future__ import annotations

import asyncio
import gc
import re
import socket
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Protocol, cast

import orjson
import uvloop
from loopback import HOST, EngineDoor

from benchmark.ground import TOKEN, BenchError
from orchd.config.model import PoolConfig
from orchd.engines.adapter import Generation
from orchd.engines.llamacpp import LlamaCpp

TIMEOUT_S = 120.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_TASK_ID = re.compile(rb'"task_id":"([^"]+)"')
_STAMP = re.compile(rb'"(?:t|content)":"(\d{9,})"')


@dataclass(frozen=True, slots=True)
class Asked:
    """What one stream is asked for."""

    prompt: str
    tokens: int
    sampling: Mapping[str, int | float] = field(default_factory=dict)
    is_exact: bool = True
    """So many come, each in an event of its own: the fake engine's way."""


class Side(Protocol):
    """One who answers: the daemon, the engine itself, another relay."""

    port: int
    token: re.Pattern[bytes]
    """Matches once for each token of an answer."""
    last: bytes
    """In a whole answer, and nowhere else."""
    made: re.Pattern[bytes]
    """The last that it finds is how many tokens there were."""
    is_two_step: bool
    """The first request is answered by what the second is made of, and that by the stream."""

    def ask(self, asked: Asked) -> bytes:
        """The first request."""

    def follow(self, answer: bytes) -> bytes | None:
        """The second request, once the answer to the first is whole. Raises BenchError."""


class DaemonSide:
    """A task is submitted, then streamed over the same connection."""

    token = re.compile(rb"\nevent: token\n")
    last = b"\nevent: end\n"
    made = re.compile(rb'"tokens_out":(\d+)')
    is_two_step = True

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(self, asked: Asked) -> bytes:
        task = {"prompt": asked.prompt, "max_tokens": asked.tokens, **asked.sampling}
        return post(self.port, "/v1/tasks", TOKEN.value, orjson.dumps(task))

    def follow(self, answer: bytes) -> bytes | None:
        if not is_whole(answer):
            return None
        found = _TASK_ID.search(answer)
        if found is None or not answer.startswith(b"HTTP/1.1 202 "):
            raise BenchError(f"the daemon did not admit a task: {answer[-300:]!r}")
        head = f"GET /v1/tasks/{found[1].decode()}/stream HTTP/1.1\r\nHost: {HOST}:{self.port}\r\n"
        return f"{head}Authorization: Bearer {TOKEN.value}\r\nConnection: close\r\n\r\n".encode()


class EngineSide:
    """The engine, or who speaks like it: asked as the daemon asks its engines."""

    # Progress of the prompt comes with an empty text.
    token = re.compile(rb'"content":"[^"]')
    last = b'"stop":true'
    made = re.compile(rb'"tokens_predicted":(\d+)')
    is_two_step = False

    def __init__(self, door: EngineDoor) -> None:
        self.port = door.port
        self._key = door.key

    def ask(self, asked: Asked) -> bytes:
        generation = Generation(
            prompt=asked.prompt, max_tokens=asked.tokens, sampling=dict(asked.sampling)
        )
        pool = PoolConfig(id="bench", engine="llamacpp", model="any", ctx=1_000_000)
        request = LlamaCpp().generation_request(pool, generation)
        return post(self.port, request.path, self._key, request.body, "Connection: close\r\n")

    def follow(self, answer: bytes) -> bytes | None:
        raise AssertionError("one request is all")


def post(port: int, path: str, key: str, body: bytes, more: str = "") -> bytes:
    """A request as common clients write it."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nAccept: */*\r\n"
        f"User-Agent: bench/1\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    )
    return head.encode() + body


def is_whole(answer: bytes) -> bool:
    """True once an answer with a length is there."""
    head, found, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    return bool(found) and (length is None or len(body) >= int(length[1]))


@dataclass(slots=True)
class Story:
    """One answer: its bytes as they came, by CLOCK_MONOTONIC."""

    begun_ns: int
    pieces: list[bytes] = field(default_factory=list)
    came_ns: list[int] = field(default_factory=list)

    @property
    def text(self) -> bytes:
        return b"".join(self.pieces)

    def count_tokens(self, side: Side, asked: Asked) -> int:
        """Raises BenchError unless it is whole."""
        text = self.text
        told = [int(found[1]) for found in side.made.finditer(text)]
        events = sum(1 for _ in side.token.finditer(text))
        is_right = not asked.is_exact or told[-1:] == [events] == [asked.tokens]
        if side.last not in text or not told or not is_right:
            raise BenchError(f"{asked.tokens} tokens brought {events}: ...{text[-300:]!r}")
        return told[-1]

    def first_token_s(self, side: Side) -> float:
        """From the call for a connection to the first token."""
        found = side.token.search(self.text)
        assert found is not None
        return (self._list_arrivals([found.end()])[0] - self.begun_ns) / 1e9

    def list_gaps_ms(self) -> list[float]:
        """Of stamped tokens: from the engine's emission of each to its arrival here."""
        stamps = list(_STAMP.finditer(self.text))
        arrivals = self._list_arrivals([found.end() for found in stamps])
        pairs = zip(stamps, arrivals, strict=True)
        return [came_ns / 1e6 - int(found[1]) / 1e3 for found, came_ns in pairs]

    def _list_arrivals(self, ends: Sequence[int]) -> list[int]:
        """When each of these places of the text was there."""
        there = list(accumulate(len(piece) for piece in self.pieces))
        return [self.came_ns[bisect_left(there, end)] for end in ends]


class _Reader(asyncio.Protocol):
    """Asks, follows, and keeps all that comes from then on."""

    def __init__(self, side: Side, asked: Asked, story: Story, is_stalled: bool) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._side, self._asked = side, asked
        self.story = story
        self._is_stalled = is_stalled
        self._answer = b""
        self._has_followed = not side.is_two_step

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._side.ask(self._asked))

    def data_received(self, data: bytes) -> None:
        if self._has_followed:
            self.story.came_ns.append(time.monotonic_ns())
            self.story.pieces.append(data)
            return
        self._answer += data
        try:
            following = self._side.follow(self._answer)
        except BenchError as error:
            self.ended.set_exception(error)
            self._transport.abort()
            return
        if following is not None:
            self._has_followed = True
            self._transport.write(following)
            if self._is_stalled:
                self._transport.pause_reading()

    def resume(self) -> None:
        self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


@dataclass(frozen=True, slots=True)
class Load:
    """Streams that ran at once."""

    span_s: float
    """Until the last of those who read had all."""
    stories: Sequence[Story]
    tokens: int


def drive(side: Side, asked: Asked, count: int, stalled: int = 0) -> Load:
    """So many streams at once, each held against its promise; the stalled ones read nothing before
    the others have all. Raises BenchError."""
    # This process's garbage collector has no place in the timings.
    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            span_s, stories = runner.run(_run(side, asked, count, stalled))
    finally:
        gc.enable()
    return Load(span_s, stories, sum(story.count_tokens(side, asked) for story in stories))


async def _run(side: Side, asked: Asked, count: int, stalled: int) -> tuple[float, list[Story]]:
    begun_ns = time.monotonic_ns()
    try:
        async with asyncio.timeout(TIMEOUT_S):
            readers = [await _open(side, asked, n < stalled) for n in range(count)]
            await asyncio.gather(*(reader.ended for reader in readers[stalled:]))
            span_s = (time.monotonic_ns() - begun_ns) / 1e9
            for reader in readers[:stalled]:
                reader.resume()
            await asyncio.gather(*(reader.ended for reader in readers[:stalled]))
    except TimeoutError as error:
        raise BenchError(f"{count} streams of {asked.tokens} did not end in time") from error
    except OSError as error:
        raise BenchError(f"port {side.port}: {error}") from error
    return span_s, [reader.story for reader in readers]


async def _open(side: Side, asked: Asked, is_stalled: bool) -> _Reader:
    story = Story(time.monotonic_ns())
    connection = socket.socket()
    connection.setblocking(False)
    if is_stalled:
        # The least that the kernel gives, so that the stall is felt at the other end.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, (HOST, side.port))
    _, reader = await loop.create_connection(
        lambda: _Reader(side, asked, story, is_stalled), sock=connection
    )
    return reader

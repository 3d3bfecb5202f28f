"""What a token and a task cost, in what does not depend on the machine: calls and bytes.

Counted when the bounds were written: 33 calls a token that comes alone, 13 in bunches, 161 an
admission, 94 bytes a token. Whoever goes beyond a bound has made every token of every stream, or
every task, dearer; ``tools/bench`` tells what that comes to in time.
"""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

import h11
import pytest

import orchd
from orchd.api.door import Door
from orchd.config.listen import Listen
from orchd.engines.adapter import Endpoint
from orchd.http1.server import HttpServer
from tests.conftest import Drive
from tests.fakes.engine import Call, FakeEngine
from tests.fakes.house import build_served
from tests.http1.raw import Client, client_of
from tests.serving.samples import make_pool

TOKEN = "s3cret"
HEAD = b"Host: a\r\nAuthorization: Bearer s3cret\r\n"
BODY = b'{"prompt": "Once upon a time", "max_tokens": 5000}'
POST = b"POST /v1/tasks HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (HEAD, len(BODY), BODY)
TOKENS = 200
PACKAGE = str(Path(orchd.__file__).parent)
COUNTED = (PACKAGE, str(Path(h11.__file__).parent))


class Calls:
    """How many functions of orchd and of h11 were called; a generator counts at each step."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(COUNTED):
            self.count += 1


@contextmanager
def counting() -> Iterator[Calls]:
    calls = Calls()
    sys.setprofile(calls.note)
    try:
        yield calls
    finally:
        sys.setprofile(None)


class Teller:
    """An engine that says what it is told to, in one write each time."""

    def __init__(self) -> None:
        self._wanted: asyncio.Queue[int] = asyncio.Queue()

    async def script(self, call: Call) -> None:
        call.accept()
        while tokens := await self._wanted.get():
            call.say(*["token"] * tokens)
        call.finish()

    def tell(self, tokens: int) -> None:
        self._wanted.put_nowait(tokens)


@asynccontextmanager
async def serving(endpoint: Endpoint) -> AsyncIterator[Listen]:
    pool = make_pool(ctx=100_000, interactive=10_000)
    service, context = build_served(pool)
    server = HttpServer(Door(context, TOKEN))
    listen = await server.start(Listen("127.0.0.1", 0))
    assert isinstance(listen, Listen)
    try:
        service.open_slots(pool, endpoint)
        yield listen
    finally:
        await service.end_tasks()
        await server.stop(0)


async def stream_of(client: Client) -> None:
    """Submit a task and read the head of its stream."""
    location = (await client.ask(POST)).headers["location"]
    await client.send(b"GET %s HTTP/1.1\r\n%s\r\n" % (location.encode(), HEAD))
    await client.head()


async def read_tokens(client: Client, tokens: int) -> None:
    """Wait until so many more token events have come."""
    data = b""
    while data.count(b"event: token\n") < tokens:
        data += await client.chunk()


async def each_token(drive_it: Callable[[Teller, Client], Awaitable[None]]) -> int:
    """What so many tokens cost, all that comes once for a task left out."""
    teller = Teller()
    async with (
        FakeEngine(teller.script) as engine,
        serving(engine.endpoint) as listen,
        client_of(listen) as client,
    ):
        await stream_of(client)
        await drive_it(teller, client)
        with counting() as calls:
            await drive_it(teller, client)
        teller.tell(0)
    return calls.count


async def alone(teller: Teller, client: Client) -> None:
    for _ in range(TOKENS):
        teller.tell(1)
        await read_tokens(client, 1)


async def in_bunches(teller: Teller, client: Client) -> None:
    for _ in range(TOKENS // 20):
        teller.tell(20)
        await read_tokens(client, 20)


@pytest.mark.parametrize(("way", "most"), [(alone, 40), (in_bunches, 17)])
def test_calls_a_token(
    drive: Drive[int], way: Callable[[Teller, Client], Awaitable[None]], most: int
) -> None:
    calls = drive(each_token(way)) / TOKENS
    assert 5 < calls <= most, f"{calls:.1f} calls a token"


def test_calls_an_admission(drive: Drive[int]) -> None:
    async def scenario() -> int:
        async with (
            FakeEngine(Teller().script) as engine,
            serving(engine.endpoint) as listen,
            client_of(listen) as client,
        ):
            for _ in range(20):  # the slots are taken by the first
                await client.ask(POST)
            with counting() as calls:
                for _ in range(TOKENS):
                    await client.ask(POST)
        return calls.count

    calls = drive(scenario()) / TOKENS
    assert 20 < calls <= 190, f"{calls:.1f} calls an admission"


def test_bytes_a_token(drive: Drive[int]) -> None:
    """What of a token stays until its task is forgotten: its frame, once, for every reader."""

    async def scenario() -> int:
        teller = Teller()
        async with (
            FakeEngine(teller.script) as engine,
            serving(engine.endpoint) as listen,
            client_of(listen) as client,
        ):
            await stream_of(client)
            await in_bunches(teller, client)
            tracemalloc.start()
            try:
                before = held_bytes()
                for _ in range(5):
                    await in_bunches(teller, client)
                return held_bytes() - before
            finally:
                tracemalloc.stop()
                teller.tell(0)

    each_bytes = drive(scenario()) / (5 * TOKENS)
    assert 50 < each_bytes <= 150, f"{each_bytes:.0f} bytes a token"


def held_bytes() -> int:
    """What orchd's own lines have allocated and not given back."""
    ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, f"{PACKAGE}/*")])
    return sum(file.size for file in ours.statistics("filename"))

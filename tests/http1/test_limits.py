"""What a client may cost in time, memory and number: real sockets, and a clock that tests move."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest

from orchd.config.listen import Listen
from orchd.config.model import ServerConfig
from orchd.http1.connection import Connection
from orchd.http1.limits import Limits, limits_from
from orchd.http1.server import HttpServer
from tests.conftest import Drive
from tests.fakes.application import FakeApplication, FakeSource
from tests.fakes.loop import ClockedLoop
from tests.http1.raw import GET, STOP_TIMEOUT_S, Answer, Client, client_of, serving, settle

LIMITS = Limits(
    head_timeout_s=10,
    body_timeout_s=30,
    keep_alive_s=75,
    reader_stall_s=120,
    linger_s=2,
    ping_s=1_000_000,
)
POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
STREAM = b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = b"POST /large HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n20000000"
"""More than all buffers between two sockets hold."""


class House:
    """A server whose connections live by a clock that the test moves."""

    def __init__(self, application: FakeApplication, limits: Limits) -> None:
        loop = asyncio.get_running_loop()
        self.application = application
        self.server = HttpServer(application, limits)
        self.clock = ClockedLoop(loop)
        self.connections: list[Connection] = []
        self._limits = limits

    def connect(self) -> Connection:
        loop = cast(asyncio.AbstractEventLoop, self.clock)
        self.connections.append(Connection(self.application, self.server, self._limits, loop))
        return self.connections[-1]

    @property
    def live(self) -> int:
        return self.server.connections

    @property
    def timers(self) -> int:
        return len(self.clock.pending)


@asynccontextmanager
async def house(
    *sources: FakeSource, limits: Limits = LIMITS
) -> AsyncIterator[tuple[House, Listen]]:
    built = House(FakeApplication(*sources), limits)
    listener = await asyncio.get_running_loop().create_server(built.connect, "127.0.0.1", 0)
    try:
        yield built, Listen("127.0.0.1", listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await built.server.stop(0)
        assert built.timers == 0, "a timer outlived its connection"


async def assert_served(listen: Listen) -> None:
    """Somebody else notices nothing."""
    async with client_of(listen) as other:
        assert (await other.ask(GET)).status == 200


def assert_too_slow(answer: Answer, what: str) -> None:
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert answer.envelope()["code"] == "REQUEST_TIMEOUT"
    assert what in str(answer.envelope()["message"])


# -- heads, bodies and idle connections ----------------------------------------------------------


def test_who_says_nothing_is_closed_without_a_word(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            await settle(lambda: built.live == 1)
            built.clock.pass_time(9.9)
            await assert_served(listen)
            assert built.live >= 1
            built.clock.pass_time(0.1)
            assert await client.is_closed()
            await settle(lambda: built.live == 0)

    drive(scenario())


@pytest.mark.parametrize("sent", [b"G", b"GET /echo HTTP/1.1\r\n", GET[:-1]])
def test_a_head_that_comes_too_slowly(drive: Drive[Any], sent: bytes) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            await settle(lambda: built.live == 1)
            # From the opening of the connection on, not from the first byte.
            built.clock.pass_time(5)
            for byte in sent:
                await client.send(bytes([byte]))
                await settle(lambda: built.connections[0]._parser.waiting_bytes)
                built.clock.pass_time(4.9 / len(sent))
            await assert_served(listen)
            built.clock.pass_time(0.2)
            assert_too_slow(await client.answer(), "head took longer than 10 s")
            assert await client.is_closed()
            assert not built.application.requests[1:]

    drive(scenario())


def test_a_further_head_has_its_time_from_its_first_byte_on(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            assert (await client.ask(GET)).status == 200
            built.clock.pass_time(70)
            await client.send(GET[:5])
            await settle(lambda: built.connections[0]._parser.waiting_bytes == 5)
            built.clock.pass_time(9.9)
            assert (await client.ask(GET[5:])).status == 200
            await client.send(GET[:5])
            await settle(lambda: built.connections[0]._parser.waiting_bytes == 5)
            built.clock.pass_time(10)
            assert_too_slow(await client.answer(), "head")

    drive(scenario())


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (b"Content-Length: 9\r\n\r\n", [b"", b"a", b"b"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"", b"2\r\n", b"a", b"b\r", b"\n"]),
        (b"Transfer-Encoding: chunked\r\n\r\n", [b"0\r\n", b"X: y\r\n"]),
    ],
)
def test_a_body_that_comes_too_slowly(drive: Drive[Any], head: bytes, parts: list[bytes]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            await client.send(POST + head)
            await settle(lambda: built.application.heads)
            for part in parts:
                await client.send(part)
                await assert_served(listen)
                built.clock.pass_time(29.9 / len(parts))
            await assert_served(listen)
            built.clock.pass_time(0.2)
            assert_too_slow(await client.answer(), "body took longer than 30 s")
            assert await client.is_closed()

    drive(scenario())


def test_an_idle_connection_is_closed_without_a_word(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            for _ in range(3):
                assert (await client.ask(GET)).status == 200
                built.clock.pass_time(74.9)
            built.clock.pass_time(0.2)
            assert await client.is_closed()
            await settle(lambda: built.live == 0)

    drive(scenario())


def test_no_clock_but_a_readers_own_stall_cuts_a_stream(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with house(source) as (built, listen), client_of(listen) as client:
            # The partial head behind it has no turn yet.
            await client.send(STREAM + GET[:5])
            await client.head()
            for _ in range(3):
                built.clock.pass_time(1000)
                source.push(b"a")
                assert await client.chunk() == b"a"
            source.end()
            assert await client.chunk() == b""
            built.clock.pass_time(9.9)
            assert (await client.ask(GET[5:])).status == 200

    drive(scenario())


def test_a_partial_head_behind_a_stream_has_its_time_from_its_turn_on(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with house(source) as (built, listen), client_of(listen) as client:
            await client.send(STREAM + GET[:5])
            await client.head()
            built.clock.pass_time(1000)
            source.end()
            assert await client.chunk() == b""
            built.clock.pass_time(10)
            assert_too_slow(await client.answer(), "head")
            assert await client.is_closed()

    drive(scenario())


def test_a_lingering_connection_is_closed_in_time(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            assert (await client.ask(b"\x00")).status == 400
            await client.send(bytes(1000))
            built.clock.pass_time(1.9)
            assert built.live == 1
            built.clock.pass_time(0.1)
            await settle(lambda: built.live == 0)

    drive(scenario())


def test_a_busy_connection_makes_no_timers(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            for _ in range(200):
                assert (await client.ask(POST + b"Content-Length: 1\r\n\r\na")).status == 200
            assert built.clock.made == 1
            assert built.timers == 1

    drive(scenario())


# -- readers that take nothing -------------------------------------------------------------------


@asynccontextmanager
async def slow_reader(listen: Listen) -> AsyncIterator[socket.socket]:
    """A client whose window is as small as can be."""
    loop = asyncio.get_running_loop()
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.setblocking(False)
        await loop.sock_connect(stalled, (listen.host, listen.port))
        yield stalled


async def fill(built: House) -> Connection:
    """Wait until the kernel takes no more of the reply."""
    connection = built.connections[0]
    await settle(lambda: built.application.requests)
    seen = -1
    while seen != (unsent := connection._transport.get_write_buffer_size()):
        seen = unsent
        await asyncio.sleep(0.02)
    assert seen > 0
    return connection


REPLIES = {
    "stream": STREAM,
    "reply": LARGE,
    "last reply": LARGE.replace(b"Host: a\r\n", b"Host: a\r\nConnection: close\r\n"),
    "pipeline": LARGE + GET * 3000,
}


@pytest.mark.parametrize("name", REPLIES)
def test_a_reader_that_takes_nothing_is_dropped(drive: Drive[Any], name: str) -> None:
    async def scenario() -> None:
        source = FakeSource(*[bytes(60_000)] * 300)
        async with house(source) as (built, listen), slow_reader(listen) as stalled:
            await asyncio.get_running_loop().sock_sendall(stalled, REPLIES[name])
            await fill(built)
            built.clock.pass_time(119)
            await asyncio.sleep(0)
            await assert_served(listen)
            assert built.live >= 1 and len(built.application.requests) == 2
            built.clock.pass_time(31)
            await settle(lambda: built.live == 0)
            assert not source.is_attached

    drive(scenario())


@pytest.mark.parametrize("name", ["stream", "last reply"])
def test_one_that_takes_a_little_is_not(drive: Drive[Any], name: str) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        source = FakeSource(*[bytes(60_000)] * 300)
        async with house(source) as (built, listen), slow_reader(listen) as stalled:
            await loop.sock_sendall(stalled, REPLIES[name])
            connection = await fill(built)
            unsent_bytes = connection._transport.get_write_buffer_size
            for _ in range(5):
                built.clock.pass_time(119)
                before_bytes = unsent_bytes()
                while unsent_bytes() == before_bytes:
                    # What it takes frees room in the kernel, sooner or later.
                    assert await loop.sock_recv(stalled, 65_536)
                    await asyncio.sleep(0)
                assert built.live == 1
            await fill(built)
            built.clock.pass_time(300)
            await settle(lambda: built.live == 0)

    drive(scenario())


def test_the_marks_of_the_write_buffer_are_ours(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen):
            await settle(lambda: built.live == 1)
            marks = built.connections[0]._transport.get_write_buffer_limits()
            assert marks == (LIMITS.write_low_bytes, LIMITS.write_high_bytes)

    drive(scenario())


# -- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "chunk"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + bytes(1000) + b"\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n40000000\r\n", bytes(1000)),
        (b"Content-Length: 1073741824\r\n\r\n", bytes(1000)),
    ],
)
def test_a_body_without_an_end_fills_no_memory(
    drive: Drive[Any], head: bytes, chunk: bytes
) -> None:
    body_bytes = 100_000

    async def scenario() -> None:
        limits = Limits(body_bytes=body_bytes)
        async with house(limits=limits) as (built, listen), client_of(listen) as client:
            await client.send(POST + head)
            await settle(lambda: built.application.heads)
            (connection,) = built.connections
            for _ in range(200):
                await client.send(chunk * 50)
                await asyncio.sleep(0)
                held = len(connection._exchange._body) + connection._parser.waiting_bytes
                # A read of the transport may lie on top of what may wait.
                assert held <= body_bytes + limits.ahead_bytes + (1 << 18)
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (413, "close")
            assert answer.envelope()["code"] == "PAYLOAD_TOO_LARGE"
            assert len(connection._exchange._body) + connection._parser.waiting_bytes == 0
            assert not built.application.requests
            await assert_served(listen)

    drive(scenario())


def test_a_head_may_be_larger_than_what_may_wait(drive: Drive[Any]) -> None:
    """Else a large head would wait for room that only it could make."""

    async def scenario() -> None:
        limits = Limits(head_bytes=500_000, ahead_bytes=1000)
        async with house(limits=limits) as (_, listen), client_of(listen) as client:
            large = GET[:-2] + b"X: " + b"x" * 400_000 + b"\r\n\r\n"
            for at in range(0, len(large), 10_000):
                await client.send(large[at : at + 10_000])
                await asyncio.sleep(0.001)
            assert (await client.answer()).status == 200

    drive(scenario())


# -- how many ------------------------------------------------------------------------------------


def test_connections_beyond_the_most_are_told_so_and_those_far_beyond_are_dropped(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        limits = Limits(max_connections=3, max_refusals=2, linger_s=60)
        async with (
            serving(FakeApplication(), limits) as (server, listen),
            AsyncExitStack() as stack,
        ):

            async def connect() -> Client:
                return await stack.enter_async_context(client_of(listen))

            inside = [await connect() for _ in range(3)]
            await settle(lambda: server.connections == 3)
            for _ in range(2):
                refused = await connect()
                answer = await refused.answer()
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
                assert (answer.headers["connection"], answer.envelope()["code"]) == (
                    "close",
                    "POOL_UNAVAILABLE",
                )
                assert "date" in answer.headers
                assert "3 connections are open" in str(answer.envelope()["message"])
                # What it sends all the same causes no reset, and gets no second answer.
                await refused.send(GET)
                assert await refused.is_closed()
            assert server.connections == 5
            for _ in range(20):
                dropped = await connect()
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await dropped.answer()
            assert server.connections <= 6
            for client in inside:
                assert (await client.ask(GET)).status == 200
            inside.pop().close()
            refused.close()
            await settle(lambda: server.connections < 5)

    with caplog.at_level(logging.WARNING):
        drive(scenario())
    assert [record.message for record in caplog.records] == [
        "refused a connection: 3 are open, as [server] max_connections allows"
    ]


def test_there_is_room_again_when_one_has_left(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        limits = Limits(max_connections=1)
        async with serving(FakeApplication(), limits) as (server, listen):
            for _ in range(3):
                async with client_of(listen) as client:
                    assert (await client.ask(GET)).status == 200
                    async with client_of(listen) as second:
                        assert (await second.answer()).status == 503
                await settle(lambda: server.connections == 0)

    drive(scenario())


# -- where they come from ------------------------------------------------------------------------


def test_what_the_user_sets_is_what_holds() -> None:
    assert limits_from(ServerConfig()) == Limits()
    set_by_hand = ServerConfig(
        max_head_bytes=1,
        max_headers=2,
        max_body_bytes=3,
        head_timeout_s=4,
        body_timeout_s=5,
        keep_alive_s=6,
        max_connections=7,
        reader_stall_s=8,
    )
    assert limits_from(set_by_hand) == Limits(1, 2, 3, 4, 5, 6, 7, 8)

"""The listening socket and the life of its connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from orchd.config.listen import Listen
from orchd.errors import HostError
from orchd.http1.connection import Connection
from orchd.http1.limits import Limits
from orchd.http1.server import HttpServer
from tests.conftest import Drive
from tests.fakes.application import FakeApplication, FakeSource
from tests.http1.raw import GET, Client, client_of, serving, settle

NEVER_S = 30.0
STREAM = b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n"


def test_the_system_chooses_the_port(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with serving(FakeApplication()) as (_, first), serving(FakeApplication()) as (_, two):
            assert first.host == "127.0.0.1"
            assert len({0, first.port, two.port}) == 3

    drive(scenario())


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        (Listen("192.0.2.1", 1), "this machine has no such address"),
        (Listen("name.invalid", 1), "cannot listen on name.invalid:1: "),
    ],
)
def test_an_address_that_cannot_be_had(drive: Drive[Any], listen: Listen, why: str) -> None:
    async def scenario() -> None:
        with pytest.raises(HostError) as caught:
            await HttpServer(FakeApplication()).start(listen)
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)

    drive(scenario())


def test_a_port_that_is_taken(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with serving(FakeApplication()) as (_, listen):
            server = HttpServer(FakeApplication())
            with pytest.raises(HostError) as caught:
                await server.start(listen)
            await server.stop(0)
        taken = f"cannot listen on {listen}: another program already listens there"
        assert str(caught.value) == taken

    drive(scenario())


def test_the_loopback_of_ipv6(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        server = HttpServer(FakeApplication())
        try:
            listen = await server.start(Listen("::1", 0))
        except HostError as error:
            pytest.skip(f"no IPv6 on this machine: {error}")
        assert isinstance(listen, Listen) and str(listen).startswith("[::1]:")
        async with client_of(listen) as client:
            assert (await client.ask(GET)).status == 200
            with pytest.raises(HostError, match="another program already listens there"):
                await HttpServer(FakeApplication()).start(listen)
        await server.stop(0)

    drive(scenario())


class _Transport:
    """The real transport, and what was written to it."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.writes: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self._transport.write(data)  # type: ignore[attr-defined]


class _Watched(Connection):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.spied = _Transport(transport)
        super().connection_made(cast(asyncio.BaseTransport, self.spied))


@asynccontextmanager
async def watched(application: FakeApplication) -> AsyncIterator[tuple[Client, _Watched]]:
    """One client, and the server's side of its connection."""
    loop, server = asyncio.get_running_loop(), HttpServer(application)
    made: list[_Watched] = []

    def connect() -> Connection:
        made.append(_Watched(application, server, Limits(), loop))
        return made[-1]

    listener = await loop.create_server(connect, "127.0.0.1", 0)
    try:
        async with client_of(Listen("127.0.0.1", listener.sockets[0].getsockname()[1])) as client:
            await settle(lambda: server.connections == 1)
            yield client, made[0]
    finally:
        listener.close()
        await server.stop(0)


def test_a_token_does_not_wait_for_an_acknowledgement(drive: Drive[Any]) -> None:
    """Nagle's algorithm would hold back what is written behind an unacknowledged segment."""

    async def scenario() -> None:
        async with watched(FakeApplication()) as (_, connection):
            accepted = connection.spied.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0

    drive(scenario())


def test_what_one_loop_turn_brings_is_one_write(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with watched(FakeApplication(source)) as (client, connection):
            await client.send(STREAM)
            await client.head()
            connection.spied.writes.clear()
            for _ in range(3):
                for _ in range(32):
                    source.push(b"data: x\n\n")
                assert await client.chunk() == b"data: x\n\n" * 32
            assert len(connection.spied.writes) == 3

    drive(scenario())


def test_a_reply_is_one_write(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with watched(FakeApplication()) as (client, connection):
            assert (await client.ask(GET)).status == 200
            assert len(connection.spied.writes) == 1

    drive(scenario())


def test_a_burst_of_connections_waits_for_a_busy_loop(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with serving(FakeApplication()) as (server, listen):
            with contextlib.ExitStack() as burst:
                for _ in range(300):
                    # The loop does not get to accept any of them; one too many would time out.
                    address = (listen.host, listen.port)
                    burst.enter_context(socket.create_connection(address, timeout=0.9))
                await settle(lambda: server.connections == 300)

    drive(scenario())


def test_stopping_what_never_started(drive: Drive[Any]) -> None:
    drive(HttpServer(FakeApplication()).stop(0))


def test_idle_connections_are_closed_at_once(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with (
            serving(FakeApplication()) as (server, listen),
            client_of(listen) as fresh,
            client_of(listen) as used,
        ):
            assert (await used.ask(GET)).status == 200
            await settle(lambda: server.connections == 2)
            await server.stop(NEVER_S)
            assert server.connections == 0
            assert await fresh.is_closed() and await used.is_closed()
            with pytest.raises(ConnectionError):
                await asyncio.open_connection(listen.host, listen.port)

    drive(scenario())


def test_replies_under_way_are_finished(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with (
            serving(FakeApplication(source)) as (server, listen),
            client_of(listen) as streaming,
            client_of(listen) as posting,
        ):
            await streaming.send(STREAM)
            await streaming.head()
            await posting.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na")
            await settle(lambda: server.connections == 2)
            await asyncio.sleep(0.005)
            stopping = asyncio.create_task(server.stop(NEVER_S))
            await asyncio.sleep(0)
            source.push(b"a")
            assert await streaming.chunk() == b"a"
            # The next request on it will not be taken.
            await streaming.send(GET)
            source.push(b"b")
            source.end()
            assert [await streaming.chunk(), await streaming.chunk()] == [b"b", b""]
            assert await streaming.is_closed()
            answer = await posting.ask(b"bc")
            assert (answer.body, answer.headers["connection"]) == (b"abc", "close")
            assert await posting.is_closed()
            streaming.close()
            posting.close()
            await stopping
            assert server.connections == 0

    drive(scenario())


@pytest.mark.parametrize("grace_s", [0.0, 0.01])
@pytest.mark.parametrize(
    "sent",
    [
        STREAM,
        b"GET /ec",
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        b"POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        GET * 9000,
    ],
)
def test_what_does_not_finish_in_time_is_dropped(
    drive: Drive[Any], sent: bytes, grace_s: float
) -> None:
    async def scenario() -> None:
        source = FakeSource()
        limits = Limits(linger_s=NEVER_S)
        async with (
            serving(FakeApplication(source), limits) as (server, listen),
            client_of(listen) as client,
        ):
            client.writer.write(sent)
            await settle(lambda: server.connections == 1)
            await asyncio.sleep(0.005)
            await server.stop(grace_s)
            assert server.connections == 0
            assert not source.is_attached

    drive(scenario())


def test_a_connection_that_comes_with_the_stop_is_dropped(drive: Drive[Any]) -> None:
    """The loop may have accepted it before the stop, and tell of it after."""

    async def scenario() -> None:
        application = FakeApplication()
        loop = asyncio.get_running_loop()
        server = HttpServer(application)
        await server.start(Listen("127.0.0.1", 0))
        await server.stop(NEVER_S)
        late = await loop.create_server(
            lambda: Connection(application, server, Limits(), loop), "127.0.0.1", 0
        )
        port = late.sockets[0].getsockname()[1]
        client = Client(*await asyncio.open_connection("127.0.0.1", port))
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await client.ask(GET)
        await settle(lambda: server.connections == 0)
        client.close()
        late.close()

    drive(scenario())

"""Streamed replies over real sockets: framing, pings, readers that are slow, stalled or gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from orchd.http1.limits import Limits
from tests.conftest import Drive
from tests.fakes.application import FakeApplication, FakeSource
from tests.http1.raw import GET, Client, client_of, one_client, serving, settle

STREAM = b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n"
PING = b": waiting\n\n"


@asynccontextmanager
async def streaming(source: FakeSource, limits: Limits | None = None) -> AsyncIterator[Client]:
    """A client that has the head of its stream already."""
    async with one_client(FakeApplication(source), limits) as client:
        await client.send(STREAM)
        status, _, headers = await client.head()
        assert (status, headers["transfer-encoding"]) == (200, "chunked")
        assert headers["content-type"] == "text/event-stream"
        assert "content-length" not in headers
        yield client


def test_each_loop_turn_is_one_chunk(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with streaming(source) as client:
            source.push(b"a")
            assert await client.chunk() == b"a"
            for frame in (b"b", b"c", b"d"):
                source.push(frame)
            assert await client.chunk() == b"bcd"
            source.push(b"e")
            source.end()
            assert await client.chunk() == b"e"
            assert await client.chunk() == b""
            assert source.detached == 1
            assert (await client.ask(GET)).status == 200

    drive(scenario())


def test_what_is_there_already_comes_in_parts_of_the_limit(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        frames = [b"%03d" % number for number in range(100)]
        source = FakeSource(*frames, is_ended=True)
        async with one_client(FakeApplication(source), Limits(pull_bytes=10)) as client:
            answer = await client.ask(STREAM)
            assert answer.body == b"".join(frames)
            assert {len(chunk) for chunk in answer.chunks[:-1]} == {9}

    drive(scenario())


def test_a_stream_that_is_over_is_an_empty_body(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication(FakeSource(is_ended=True))) as client:
            answer = await client.ask(STREAM)
            assert (answer.status, answer.body) == (200, b"")
            assert (await client.ask(GET)).status == 200

    drive(scenario())


def test_http_1_0_has_its_stream_until_the_end_of_the_connection(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with one_client(FakeApplication(source)) as client:
            await client.send(b"GET /stream/0 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            status, _, headers = await client.head()
            assert (status, headers["connection"]) == (200, "close")
            assert "transfer-encoding" not in headers
            source.push(b"a\n\n")
            assert await client.reader.readexactly(3) == b"a\n\n"
            source.push(b"b\n\n")
            source.end()
            assert await client.reader.read() == b"b\n\n"
            assert source.detached == 1

    drive(scenario())


def test_silence_is_broken_by_what_is_awaited(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with streaming(source, Limits(ping_s=0.02)) as client:
            assert await client.chunk() == PING
            assert await client.chunk() == PING
            source.push(b"a")
            assert await client.chunk() == b"a"
            assert await client.chunk() == PING
            source.end()
            assert await client.chunk() == b""

    drive(scenario())


def test_no_ping_while_there_is_something_to_say(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        source = FakeSource()
        async with streaming(source, Limits(ping_s=0.2)) as client:
            end_s = loop.time() + 0.4
            while loop.time() < end_s:
                source.push(b"a")
                assert await client.chunk() == b"a"
                await asyncio.sleep(0.01)

    drive(scenario())


def test_a_stalled_reader_is_not_pulled_for_and_holds_up_nobody(drive: Drive[Any]) -> None:
    frame = bytes(60_000)
    count = 300

    async def scenario() -> None:
        source, other = FakeSource(*[frame] * count, is_ended=True), FakeSource()
        application = FakeApplication(source, other)
        async with serving(application, Limits(ping_s=0.01)) as (_, listen):
            loop = asyncio.get_running_loop()
            # The smallest buffer, so that the stall comes early.
            stalled = socket.socket()
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.setblocking(False)
            await loop.sock_connect(stalled, (listen.host, listen.port))
            await loop.sock_sendall(stalled, STREAM)
            async with client_of(listen) as client:
                pulls = -1
                while pulls != source.pulls:
                    pulls = source.pulls
                    assert (await client.ask(GET)).status == 200
                    await asyncio.sleep(0.02)
                assert 0 < pulls < count
                source.wake()
                await asyncio.sleep(0.1)
                await client.send(STREAM.replace(b"/0", b"/1"))
                await client.head()
                other.push(b"a")
                assert await client.chunk() in (b"a", PING)
                assert source.pulls == pulls
            # Once it reads again it gets everything, but not the ten pings that were due meanwhile.
            reader, writer = await asyncio.open_connection(sock=stalled)
            answer = await Client(reader, writer).answer()
            assert answer.body.replace(PING, b"") == frame * count
            assert answer.body.count(PING) <= 3
            assert not source.is_attached
            writer.close()

    drive(scenario())


def test_a_long_replay_to_a_quick_reader_shares_the_loop(drive: Drive[Any]) -> None:
    """The reader is another thread, so that it reads while the loop is busy writing."""

    class Endless(FakeSource):
        def pull(self, limit_bytes: int) -> bytes:
            self.pulls += 1
            return b"x"

    async def scenario() -> None:
        source = Endless()
        async with streaming(source) as client:
            await settle(lambda: source.pulls)
            before = source.pulls
            await asyncio.sleep(0)
            assert source.pulls - before < 100
            client.close()
            await settle(lambda: not source.is_attached)

    drive(scenario())


def test_a_reader_that_hangs_up_is_let_go(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with streaming(source) as client:
            source.push(b"a")
            client.close()
            await settle(lambda: not source.is_attached)
            assert source.detached == 1

    drive(scenario())


def test_a_reader_that_closes_both_halves_in_order_is_let_go(drive: Drive[Any]) -> None:
    """Its FIN looks like a closed half, until a write is answered by a reset."""

    async def scenario() -> None:
        source = FakeSource()
        async with streaming(source) as client:
            client.writer.close()
            await settle(lambda: not source.is_attached)

    drive(scenario())


def test_a_reader_with_its_half_closed_still_reads(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with streaming(source) as client:
            client.writer.write_eof()
            assert await client.chunk() == PING
            for _ in range(3):
                source.push(b"a")
                assert await client.chunk() == b"a"
            source.end()
            assert await client.chunk() == b""
            assert await client.is_closed()

    drive(scenario())

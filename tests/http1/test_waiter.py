"""Replies that come later, over real sockets: order, bounds, ends, and clients that do not wait."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest

from orchd.config.listen import Listen
from orchd.http1.connection import Connection
from orchd.http1.limits import Limits
from orchd.http1.messages import PendingResponse, Response
from tests.conftest import Drive
from tests.fakes.application import FakeApplication, FakeSource
from tests.fakes.engines import count_descriptors
from tests.fakes.loop import ClockedLoop
from tests.http1.raw import GET, Client, client_of, one_client, serving, settle
from tests.http1.test_limits import assert_served, house
from tests.http1.ways import RESET_AT_CLOSE

LATER = b"POST /later HTTP/1.1\r\nHost: a\r\n\r\n"
STREAM = b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n"
NEVER_S = 1000.0
DONE = Response(200, b"done")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Any:
    """Whatever a client does, nothing of it is told as an error."""
    with caplog.at_level(logging.WARNING):
        yield
    assert not caplog.records


async def wait_for(application: FakeApplication, count: int = 1) -> asyncio.Future[Response]:
    """The future of the request that came last, once there are so many."""
    await settle(lambda: len(application.futures) == count)
    return application.futures[-1]


def callbacks_of(future: asyncio.Future[Response]) -> int:
    return len(cast(Any, future)._callbacks or ())


# -- the answer ----------------------------------------------------------------------------------


def test_the_answer_comes_when_it_is_there_and_the_connection_goes_on(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            for count in range(1, 4):
                await client.send(LATER)
                future = await wait_for(application, count)
                reading = asyncio.create_task(client.answer())
                await asyncio.sleep(0.005)
                assert not reading.done()
                future.set_result(Response(200, b"%d" % count, ((b"x-a", b"b"),)))
                answer = await reading
                assert (answer.status, answer.body) == (200, b"%d" % count)
                assert set(answer.headers) == {"x-a", "content-length", "date"}
                assert (await client.ask(GET)).body == b"hello"

    drive(scenario())


def failing(future: asyncio.Future[Response]) -> None:
    future.set_exception(RuntimeError("planted"))


@pytest.mark.parametrize("fail", [failing, asyncio.Future.cancel])
def test_what_fails_is_answered_as_the_application_says(
    drive: Drive[Any], fail: Callable[[Any], object]
) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            await client.send(LATER)
            fail(await wait_for(application))
            answer = await client.answer()
            assert (answer.status, answer.envelope()["code"]) == (500, "INTERNAL")
            assert (await client.ask(GET)).status == 200

    drive(scenario())


class _Done(FakeApplication):
    """What is asked for is over already."""

    def _promise(self) -> PendingResponse:
        pending = super()._promise()
        self.futures[-1].set_result(DONE)
        return pending


def test_what_is_over_already_is_answered_at_once(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(_Done()) as client:
            # However many there are: none waits for another event than the last one's end.
            await client.send((LATER + GET) * 300)
            for _ in range(300):
                assert (await client.answer()).body == b"done"
                assert (await client.answer()).body == b"hello"

    drive(scenario())


@pytest.mark.parametrize(
    ("request_bytes", "is_reusable"),
    [
        (b"POST /later HTTP/1.0\r\n\r\n", False),
        (b"POST /later HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", False),
        (b"POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"HEAD /later HTTP/1.1\r\nHost: a\r\n\r\n", True),
    ],
    ids=["1.0", "close", "body", "head"],
)
def test_it_is_framed_as_any_other(
    drive: Drive[Any], request_bytes: bytes, is_reusable: bool
) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            await client.send(request_bytes)
            future = await wait_for(application)
            future.set_result(DONE)
            is_head = request_bytes.startswith(b"HEAD")
            answer = await client.answer(is_head)
            assert answer.headers["content-length"] == "4"
            assert answer.body == (b"" if is_head else b"done")
            assert (answer.headers.get("connection") == "close") is not is_reusable
            if is_reusable:
                assert (await client.ask(GET)).body == b"hello"
            else:
                assert await client.is_closed()

    drive(scenario())


def test_no_content_comes_later_too(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            await client.send(LATER)
            (await wait_for(application)).set_result(Response(204))
            assert set((await client.answer()).headers) == {"date"}
            assert (await client.ask(GET)).status == 200

    drive(scenario())


# -- what is behind it ---------------------------------------------------------------------------


def test_requests_behind_it_wait_for_their_turn(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            await client.send(GET + LATER + GET * 50 + LATER + GET)
            assert (await client.answer()).body == b"hello"
            first = await wait_for(application)
            await asyncio.sleep(0.005)
            assert len(application.requests) == 2
            first.set_result(Response(200, b"first"))
            assert (await client.answer()).body == b"first"
            for _ in range(50):
                assert (await client.answer()).body == b"hello"
            (await wait_for(application, 2)).set_result(Response(200, b"second"))
            assert (await client.answer()).body == b"second"
            assert (await client.answer()).body == b"hello"

    drive(scenario())


def test_no_more_is_read_behind_it_than_allowed(drive: Drive[Any]) -> None:
    rest = 24_000_000

    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            client.writer.write(LATER * 20 + b"POST /secret HTTP/1.1\r\nHost: a\r\n")
            client.writer.write(b"Content-Length: %d\r\n\r\n" % rest + bytes(rest))
            for count in range(1, 20):
                (await wait_for(application, count)).set_result(DONE)
                assert (await client.answer()).body == b"done"
            last = await wait_for(application, 20)
            assert client.writer.transport.get_write_buffer_size() > rest / 2
            last.set_result(DONE)
            assert (await client.answer()).status == 200
            assert (await client.answer()).status == 401

    drive(scenario())


# -- clients that leave --------------------------------------------------------------------------


class _Owner:
    def __init__(self) -> None:
        self.live: set[Connection] = set()
        self.seen: list[weakref.ref[Connection]] = []

    def opened(self, connection: Connection) -> None:
        self.live.add(connection)
        self.seen.append(weakref.ref(connection))

    def closed(self, connection: Connection) -> None:
        self.live.remove(connection)


async def leave(how: str, client: Client, owner: _Owner, future: asyncio.Future[Response]) -> None:
    match how:
        case "reset":
            raw = client.writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)
        case "half-close, then close":
            client.writer.write_eof()
            await settle(lambda: all(connection._has_eof for connection in owner.live))
            assert len(owner.live) == 1
        case "in its last turn":
            # It is over, and the callback booked: too late to take that back.
            future.set_result(DONE)
            owner.live.copy().pop().abort()
    client.close()


@pytest.mark.parametrize("how", ["reset", "close", "half-close, then close", "in its last turn"])
def test_a_client_that_leaves_leaves_nothing(drive: Drive[Any], how: str) -> None:
    faults: list[Any] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, fault: faults.append(fault))
        owner, application, clock = _Owner(), FakeApplication(), ClockedLoop(loop)
        clocked = cast(asyncio.AbstractEventLoop, clock)
        server = await loop.create_server(
            lambda: Connection(application, owner, Limits(), clocked), "127.0.0.1", 0
        )
        try:
            before = count_descriptors()
            listen = Listen("127.0.0.1", server.sockets[0].getsockname()[1])
            async with client_of(listen) as client:
                await client.send(LATER)
                future = await wait_for(application)
                assert callbacks_of(future) == 1
                await leave(how, client, owner, future)
            while owner.live:
                clock.pass_time(0.5)
                await asyncio.sleep(0.005)
            assert not clock.pending and not callbacks_of(future) and not future.cancelled()
            await settle(lambda: count_descriptors() == before)
            application.requests.clear()
            gc.collect()
            assert owner.seen[0]() is None
            if not future.done():
                future.set_result(DONE)
            await asyncio.sleep(0)
            assert not application.answered
        finally:
            server.close()

    drive(scenario())
    assert not faults


def test_a_client_that_closed_its_half_gets_its_answer(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            client.writer.write(LATER + GET)
            client.writer.write_eof()
            future = await wait_for(built.application)
            await settle(lambda: built.connections[0]._has_eof)
            future.set_result(DONE)
            assert (await client.answer()).body == b"done"
            assert (await client.answer()).body == b"hello"
            assert await client.is_closed()
            await settle(lambda: built.live == 0)

    drive(scenario())


@pytest.mark.parametrize("before", [b"", STREAM], ids=["alone", "behind a stream"])
def test_one_that_closed_its_half_is_asked_twice_whether_it_is_there(
    drive: Drive[Any], before: bytes
) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with house(source) as (built, listen), client_of(listen) as client:
            client.writer.write(before + LATER)
            client.writer.write_eof()
            await settle(lambda: built.live and built.connections[0]._has_eof)
            if before:
                source.end()
                assert (await client.answer()).status == 200
            future = await wait_for(built.application)
            built.clock.pass_time(NEVER_S)
            future.set_result(DONE)
            assert [(await client.answer()).status for _ in range(3)] == [100, 100, 200]
            assert await client.is_closed()

    drive(scenario())


def test_one_that_speaks_http_1_0_is_not_asked(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            client.writer.write(LATER.replace(b"1.1", b"1.0"))
            client.writer.write_eof()
            future = await wait_for(built.application)
            await settle(lambda: built.connections[0]._has_eof)
            built.clock.pass_time(NEVER_S)
            future.set_result(DONE)
            assert (await client.answer()).body == b"done"
            assert await client.is_closed()

    drive(scenario())


# -- time ----------------------------------------------------------------------------------------


def test_no_clock_ends_it(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as (built, listen), client_of(listen) as client:
            # The partial head behind it has no turn yet.
            await client.send(LATER + GET[:5])
            future = await wait_for(built.application)
            for _ in range(3):
                built.clock.pass_time(NEVER_S)
                await assert_served(listen)
            future.set_result(DONE)
            assert (await client.answer()).body == b"done"
            built.clock.pass_time(9.9)
            assert (await client.ask(GET[5:])).status == 200
            built.clock.pass_time(74.9)
            assert (await client.ask(GET)).status == 200
            built.clock.pass_time(75)
            assert await client.is_closed()

    drive(scenario())


# -- the server's stop ---------------------------------------------------------------------------


def test_at_a_stop_the_answer_still_comes_within_the_grace(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with serving(application) as (server, listen), client_of(listen) as client:
            await client.send(LATER)
            future = await wait_for(application)
            stopping = asyncio.create_task(server.stop(NEVER_S))
            await asyncio.sleep(0.005)
            assert not stopping.done()
            future.set_result(DONE)
            answer = await client.answer()
            assert (answer.body, answer.headers["connection"]) == (b"done", "close")
            assert await client.is_closed()
            client.close()
            await stopping
            assert server.connections == 0

    drive(scenario())


@pytest.mark.parametrize("grace_s", [0.0, 0.01])
def test_what_is_still_pending_behind_the_grace_is_dropped(
    drive: Drive[Any], grace_s: float
) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with serving(application) as (server, listen), client_of(listen) as client:
            await client.send(LATER)
            future = await wait_for(application)
            await server.stop(grace_s)
            assert server.connections == 0
            assert not future.done() and not callbacks_of(future)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await client.answer()

    drive(scenario())

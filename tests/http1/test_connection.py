"""Requests and replies over real sockets: framing, order, refusals, both ends of a connection."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from functools import partial
from typing import Any

import pytest

from orchd.http1.connection import Connection
from orchd.http1.limits import Limits
from tests.conftest import Drive
from tests.fakes.application import FakeApplication, FakeSource
from tests.http1.raw import GET, Answer, client_of, one_client, serving, settle

POST = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
SECRET = b"POST /secret HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEVER_S = 30.0


def ask(drive: Drive[Any], data: bytes, limits: Limits | None = None) -> Answer:
    """One request on a connection of its own."""

    async def scenario() -> Answer:
        async with one_client(FakeApplication(), limits) as client:
            return await client.ask(data)

    answer = drive(scenario())
    assert isinstance(answer, Answer)
    return answer


# -- plain requests ----------------------------------------------------------------------------


def test_a_reply_says_its_length_and_date(drive: Drive[Any]) -> None:
    answer = ask(drive, GET)
    assert (answer.status, answer.reason, answer.body) == (200, "OK", b"hello")
    assert set(answer.headers) == {"content-length", "date"}


def test_requests_on_one_connection(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            for number in range(3):
                body = b"%d" % number
                answer = await client.ask(POST + b"Content-Length: 1\r\n\r\n" + body)
                assert answer.body == body and "connection" not in answer.headers
        assert [request.body for request in application.requests] == [b"0", b"1", b"2"]

    drive(scenario())


def test_pipelined_requests_are_answered_in_order(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with one_client(FakeApplication(source)) as client:
            await client.send(
                GET
                + b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n"
                + b"".join(POST + b"Content-Length: 2\r\n\r\n%02d" % n for n in range(50))
                + b"GET /none HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            )
            assert (await client.answer()).body == b"hello"
            await settle(lambda: source.is_attached)
            source.push(b"streamed")
            source.end()
            assert (await client.answer()).body == b"streamed"
            for number in range(50):
                assert (await client.answer()).body == b"%02d" % number
            last = await client.answer()
            assert (last.status, last.headers["connection"]) == (404, "close")
            assert await client.is_closed()

    drive(scenario())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /echo?q HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        CHUNKED + b"1;x=y\r\na\r\n2\r\nbc\r\n0\r\nTrailer: x\r\n\r\n",
    ],
)
def test_a_request_torn_at_every_byte(drive: Drive[Any], request_bytes: bytes) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            for cut in range(1, len(request_bytes)):
                heads = len(application.heads)
                await client.send(request_bytes[:cut])
                # The first part is read by itself: a short sleep is what a socket needs.
                await asyncio.sleep(0.0005)
                await client.send(request_bytes[cut:])
                assert (await client.answer()).body == b"abc"
                assert len(application.heads) == heads + 1

    drive(scenario())


def test_byte_by_byte(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication(), Limits(slice_bytes=1)) as client:
            assert (await client.ask(CHUNKED + b"3\r\nabc\r\n0\r\n\r\n")).body == b"abc"
            assert (await client.ask(GET)).status == 200

    drive(scenario())


def test_a_large_body_and_a_large_reply(drive: Drive[Any]) -> None:
    size = 5_000_000
    answer = ask(drive, POST + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
    assert answer.body == bytes(size)


def test_no_content_has_no_length(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication()) as client:
            answer = await client.ask(b"POST /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
            assert answer.status == 204
            assert set(answer.headers) == {"date"}
            assert (await client.ask(GET)).status == 200

    drive(scenario())


@pytest.mark.parametrize("path", [b"/echo", b"/none", b"/stream/0"])
def test_head_has_the_headers_of_get_and_no_body(drive: Drive[Any], path: bytes) -> None:
    async def scenario() -> None:
        source = FakeSource(b"data", is_ended=True)
        async with one_client(FakeApplication(source)) as client:
            head = await client.ask(b"HEAD %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            assert source.pulls == 0 and not source.is_attached
            get = await client.ask(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path)
            for answer in (head, get):
                del answer.headers["date"]
            assert (head.status, head.headers) == (get.status, get.headers)

    drive(scenario())


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/echo", "/echo"),
        (b"/ech%6f", "/ech%6f"),
        (b"/a%2Fb", "/a%2Fb"),
        (b"http://example.org:1/echo?x", "/echo"),
        (b"/%00", "/%00"),
        (b"/" + b"a" * 5000, "/" + "a" * 5000),
    ],
)
def test_the_target_reaches_the_application(drive: Drive[Any], target: bytes, path: str) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            answer = await client.ask(b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % target)
            assert application.heads[0].path == path
            if answer.status == 404:
                answer.envelope()

    drive(scenario())


def test_an_offer_of_another_protocol_is_passed_over(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication()) as client:
            offer = b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
            answer = await client.ask(b"GET /echo HTTP/1.1\r\nHost: a\r\n" + offer)
            assert answer.status == 200 and "connection" not in answer.headers
            assert (await client.ask(GET)).status == 200

    drive(scenario())


# -- versions ----------------------------------------------------------------------------------


def test_http_1_0_is_answered_and_closed(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication()) as client:
            answer = await client.ask(b"GET /echo HTTP/1.0\r\n\r\n")
            assert (answer.body, answer.headers["connection"]) == (b"hello", "close")
            assert await client.is_closed()

    drive(scenario())


def test_a_higher_minor_version_is_answered_as_1_1(drive: Drive[Any]) -> None:
    answer = ask(drive, b"GET /echo HTTP/1.2\r\nHost: a\r\n\r\n")
    assert (answer.status, answer.body) == (200, b"hello")


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"PRI"])
@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"3.0"])
def test_another_version_is_refused(drive: Drive[Any], method: bytes, version: bytes) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication()) as client:
            answer = await client.ask(b"%s /echo HTTP/%s\r\nHost: a\r\n\r\n" % (method, version))
            assert answer.status == 505
            assert await client.is_closed()
            if method != b"HEAD":
                assert answer.envelope()["code"] == "HTTP_VERSION_NOT_SUPPORTED"

    drive(scenario())


# -- what breaks HTTP --------------------------------------------------------------------------

MALFORMED = {
    "no version": b"GET /echo\r\n\r\n",
    "many empty lines first": b"\r\n" * 9 + GET,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "nul in the target": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "nul in a value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    "nul first": b"\x00" * 64,
    "utf-8 in the target": "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "two spaces": b"GET  /echo HTTP/1.1\r\nHost: a\r\n\r\n",
    "lower case version": b"GET /echo http/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET /echo HTTP/1.1\r\n\r\n",
    "no host in 1.2": b"GET /echo HTTP/1.2\r\n\r\n",
    "two hosts": b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "space before a colon": b"GET /echo HTTP/1.1\r\nHost : a\r\n\r\n",
    "no colon": b"GET /echo HTTP/1.1\r\nHost: a\r\nfield\r\n\r\n",
    "no name": b"GET /echo HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "fold first": b"GET /echo HTTP/1.1\r\n Host: a\r\n\r\n",
    "bare cr": b"GET /echo HTTP/1.1\r\nHost: a\r\nX: a\rY: b\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "two lengths in one": POST + b"Content-Length: 1, 2\r\n\r\nab",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "signed length": POST + b"Content-Length: +1\r\n\r\na",
    "hexadecimal length": POST + b"Content-Length: 0x1\r\n\r\na",
    "arabic length": POST + "Content-Length: ١\r\n\r\na".encode(),
    "empty length": POST + b"Content-Length:\r\n\r\n",
    "endless length": POST + b"Content-Length: " + b"1" * 5000 + b"\r\n\r\n",
    "length and chunked": POST
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": POST
    + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "no chunk size": CHUNKED + b"\r\nabc",
    "word for a chunk size": CHUNKED + b"xyz\r\nabc\r\n",
    "negative chunk size": CHUNKED + b"-3\r\nabc\r\n",
    "prefixed chunk size": CHUNKED + b"0x3\r\nabc\r\n",
    "endless chunk size": CHUNKED + b"f" * 30 + b"\r\n",
    "endless chunk extension": CHUNKED + b"3;" + b"x" * 200_000,
    "chunk longer than said": CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n",
    "bare lf in chunks": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "bad trailer": CHUNKED + b"0\r\nbad trailer\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_http_gets_the_envelope_and_an_end(drive: Drive[Any], name: str) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            await client.send(MALFORMED[name])
            answer = await client.answer()
            assert (answer.status, answer.reason) == (400, "Bad Request")
            assert answer.envelope()["code"] == "INVALID_PARAMS"
            assert answer.headers["connection"] == "close"
            assert await client.is_closed()
        assert not application.requests

    drive(scenario())


@pytest.mark.parametrize("bytes_at_once", [1 << 20, 1000])
@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000, 431, "HEADERS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n", 431, "HEADERS_TOO_LARGE"),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "URI_TOO_LONG"),
    ],
)
def test_a_large_head_is_refused_however_it_comes(
    drive: Drive[Any], data: bytes, status: int, code: str, bytes_at_once: int
) -> None:
    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application) as client:
            for at in range(0, len(data), bytes_at_once):
                await client.send(data[at : at + bytes_at_once])
            answer = await client.answer()
            assert (answer.status, answer.envelope()["code"]) == (status, code)
            assert await client.is_closed()
        assert not application.heads

    drive(scenario())


def test_what_follows_a_good_request_may_be_bad(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication()) as client:
            await client.send(GET + b"\x00\r\n\r\n" + GET)
            assert (await client.answer()).status == 200
            assert (await client.answer()).status == 400
            assert await client.is_closed()

    drive(scenario())


# -- refusals before the body ------------------------------------------------------------------


def test_a_body_is_not_waited_for_where_the_head_earned_its_answer(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication()) as client:
            answer = await client.ask(SECRET + b"Content-Length: 100000000\r\n\r\n")
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert answer.envelope()["code"] == "UNAUTHORIZED"
            assert await client.is_closed()

    drive(scenario())


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (SECRET + b"Content-Length: 100000000\r\n\r\n", 401),
        (SECRET + b"Transfer-Encoding: chunked\r\n\r\n5f5e100\r\n", 401),
        (POST + b"Content-Length: 100000000\r\n\r\n", 413),
        (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 413),
        (CHUNKED + b"5f5e100\r\n", 413),
    ],
)
def test_a_client_that_keeps_sending_still_gets_its_answer(
    drive: Drive[Any], head: bytes, status: int
) -> None:
    sent_bytes = 4_000_000

    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application, Limits(body_bytes=1000)) as client:
            # All of it is taken: a server that stops reading, or resets, would stop this.
            await client.send(head + bytes(sent_bytes))
            answer = await client.answer()
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            answer.envelope()
            await settle(lambda: client.writer.transport.get_write_buffer_size() == 0)
            await client.send(bytes(sent_bytes))
            assert await client.is_closed()
        assert not application.requests

    drive(scenario())


def test_a_lingering_connection_ends_when_the_client_does_or_in_time(drive: Drive[Any]) -> None:
    async def scenario(linger_s: float, does_close: bool) -> None:
        limits = Limits(linger_s=linger_s)
        async with serving(FakeApplication(), limits) as (server, listen), client_of(listen) as c:
            assert (await c.ask(SECRET + b"Content-Length: 9\r\n\r\n")).status == 401
            assert server.connections == 1
            if does_close:
                c.writer.write_eof()
            await settle(lambda: server.connections == 0)

    drive(scenario(NEVER_S, does_close=True))
    drive(scenario(0.01, does_close=False))


def test_a_chunked_body_beyond_the_limit(drive: Drive[Any]) -> None:
    within = CHUNKED + b"5\r\nabcde\r\n" * 2
    limits = Limits(body_bytes=10)
    assert ask(drive, within + b"0\r\n\r\n", limits).body == b"abcdeabcde"
    answer = ask(drive, within + b"1\r\nf\r\n", limits)
    assert (answer.status, answer.envelope()["code"]) == (413, "PAYLOAD_TOO_LARGE")


def test_a_body_is_invited_only_where_it_is_wanted(drive: Drive[Any]) -> None:
    expect = b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"

    async def scenario() -> None:
        async with serving(FakeApplication(), Limits(body_bytes=10)) as (_, listen):
            async with client_of(listen) as client:
                assert (await client.ask(POST + expect % 3)).status == 100
                assert (await client.ask(b"abc")).body == b"abc"
                # Sent along with its head, a body needs no invitation.
                assert (await client.ask(POST + expect % 3 + b"abc")).body == b"abc"
                assert (await client.ask(POST + expect % 0)).body == b"hello"
                answer = await client.ask(SECRET + expect % 3)
                assert answer.status == 401
                assert await client.is_closed()
            async with client_of(listen) as client:
                assert (await client.ask(POST + expect % 11)).status == 413
                assert await client.is_closed()
            async with client_of(listen) as client:
                old = b"POST /echo HTTP/1.0\r\n" + expect % 3
                assert (await client.ask(old + b"abc")).body == b"abc"

    drive(scenario())


# -- the end of a connection -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "statuses"),
    [
        (b"", []),
        (b"GET /echo HT", [400]),
        (POST + b"Content-Length: 5\r\n\r\nabc", [400]),
        (CHUNKED + b"5\r\nabc", [400]),
        (GET, [200]),
        (GET + GET + b"GET", [200, 200, 400]),
    ],
)
def test_a_client_that_closes_its_half_gets_what_it_is_due(
    drive: Drive[Any], sent: bytes, statuses: list[int]
) -> None:
    async def scenario() -> None:
        # With an endless linger this shows too that nothing lingers after the client's end.
        limits = Limits(linger_s=NEVER_S)
        async with serving(FakeApplication(), limits) as (server, listen), client_of(listen) as c:
            c.writer.write(sent)
            c.writer.write_eof()
            for status in statuses:
                assert (await c.answer()).status == status
            assert await c.is_closed()
            await settle(lambda: server.connections == 0)

    drive(scenario())


def test_closing_as_asked(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication()) as client:
            # What comes after the last request is taken off the wire, lest it cause a reset.
            await client.send(GET[:-2] + b"Connection: close\r\n\r\n" + GET + bytes(1_000_000))
            answer = await client.answer()
            assert (answer.body, answer.headers["connection"]) == (b"hello", "close")
            assert await client.is_closed()

    drive(scenario())


# -- what a client may cost --------------------------------------------------------------------


def test_what_is_sent_ahead_is_bounded_while_nothing_is_read(drive: Drive[Any]) -> None:
    """Whoever pipelines and never reads is not read from either."""

    async def scenario() -> None:
        application = FakeApplication()
        async with one_client(application, Limits(ahead_bytes=1000)) as client:
            client.writer.write(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n" * 500_000)
            seen = -1
            while seen != len(application.heads):
                seen = len(application.heads)
                await asyncio.sleep(0.02)
            # The kernel holds the rest, and by then its window is shut.
            assert client.writer.transport.get_write_buffer_size() > 1_000_000
            for _ in range(20_000):
                await client.answer()
            assert len(application.heads) > seen

    drive(scenario())


def test_ahead_of_a_stream_no_more_is_read_than_allowed(drive: Drive[Any]) -> None:
    """Streams that end one by one must not let the pile grow with each."""
    stream = b"GET /stream/%d HTTP/1.1\r\nHost: a\r\n\r\n"

    async def scenario() -> None:
        sources = [FakeSource() for _ in range(40)]
        async with one_client(FakeApplication(*sources)) as client:
            heads = b"".join(stream % number for number in range(40))
            rest = 24_000_000
            client.writer.write(heads + b"POST /secret HTTP/1.1\r\nHost: a\r\n")
            client.writer.write(b"Content-Length: %d\r\n\r\n" % rest + bytes(rest))
            for source in sources[:-1]:
                await settle(partial(getattr, source, "is_attached"))
                source.end()
                await client.answer()
            await settle(lambda: sources[-1].is_attached)
            assert client.writer.transport.get_write_buffer_size() > rest / 2
            sources[-1].end()
            assert (await client.answer()).status == 200
            assert (await client.answer()).status == 401

    drive(scenario())


@pytest.mark.parametrize(
    ("flood", "least_turns"),
    [
        (b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n" * 3000, 3000 / 4),
        (CHUNKED + b"1\r\nx\r\n" * 30_000, 30_000 / 64),
    ],
)
def test_a_flood_in_one_read_is_spread_over_loop_turns(
    drive: Drive[Any], flood: bytes, least_turns: float
) -> None:
    async def scenario() -> None:
        async with one_client(FakeApplication()) as client:
            turns, is_over = 0, asyncio.Event()

            async def count() -> None:
                nonlocal turns
                while not is_over.is_set():
                    turns += 1
                    await asyncio.sleep(0)

            counting = asyncio.create_task(count())
            await client.send(flood + GET[:-2] + b"Connection: close\r\n\r\n0\r\n\r\n")
            await client.reader.read()
            is_over.set()
            await counting
            assert turns >= least_turns

    drive(scenario())


class _Spy:
    """The loop with every handle that it gave out."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.time = loop.time
        self.handles: list[asyncio.Handle] = []
        self.ran = 0

    def call_later(self, delay_s: float, callback: Any, *args: Any) -> asyncio.TimerHandle:
        handle = self.loop.call_later(delay_s, self._counted(callback), *args)
        self.handles.append(handle)
        return handle

    def call_soon(self, callback: Any, *args: Any) -> asyncio.Handle:
        handle = self.loop.call_soon(self._counted(callback), *args)
        self.handles.append(handle)
        return handle

    def _counted(self, callback: Any) -> Any:
        def run(*args: Any) -> None:
            self.ran += 1
            callback(*args)

        return run

    @property
    def pending(self) -> int:
        return len(self.handles) - self.ran - sum(h.cancelled() for h in self.handles)


class _Owner:
    def __init__(self) -> None:
        self.live: set[Connection] = set()
        self.seen: weakref.ref[Connection] | None = None

    def opened(self, connection: Connection) -> None:
        self.live.add(connection)
        self.seen = weakref.ref(connection)

    def closed(self, connection: Connection) -> None:
        self.live.remove(connection)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /ec",
        GET,
        POST + b"Content-Length: 9\r\n\r\nabc",
        SECRET + b"Content-Length: 9\r\n\r\nabc",
        b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n" + GET * 9000,
        b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n" * 9000,
    ],
)
@pytest.mark.parametrize("does_reset", [True, False])
def test_nothing_outlives_a_connection(drive: Drive[Any], sent: bytes, does_reset: bool) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        spy: Any = _Spy(loop)
        owner = _Owner()
        source = FakeSource()
        application = FakeApplication(source)
        # A stream ahead of which too much came is not read: a ping finds out that the client left.
        limits = Limits(linger_s=NEVER_S, ping_s=0.05)
        server = await loop.create_server(
            lambda: Connection(application, owner, limits, spy), "127.0.0.1", 0
        )
        listen_port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", listen_port)
        writer.write(sent)
        await settle(lambda: owner.live and (application.heads or b"\r\n\r\n" not in sent))
        if does_reset:
            writer.transport.abort()
        else:
            writer.write_eof()
            await settle(lambda: source.is_attached or b"/stream" not in sent)
            source.end()
            await reader.read()
            writer.close()
        await settle(lambda: not owner.live)
        assert spy.pending == 0
        assert not source.is_attached
        server.close()
        spy.handles.clear()
        await asyncio.sleep(0)
        gc.collect()
        assert owner.seen is not None and owner.seen() is None

    drive(scenario())


def test_a_source_that_fails_breaks_its_stream_only(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        source = FakeSource()
        async with serving(FakeApplication(source)) as (server, listen):
            async with client_of(listen) as client:
                await client.send(b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n")
                await client.head()
                source.failure = RuntimeError("planted")
                source.wake()
                with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                    await client.chunk()
            await settle(lambda: server.connections == 0)
            assert not source.is_attached
            async with client_of(listen) as client:
                assert (await client.ask(GET)).status == 200

    with caplog.at_level(logging.ERROR):
        drive(scenario())
    assert [record.message for record in caplog.records] == ["a stream's source failed"]

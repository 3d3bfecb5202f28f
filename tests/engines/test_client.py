"""One request, one connection: what is told, what is raised, and that it is always closed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

from orchd.engines.adapter import Endpoint, EngineRequest
from orchd.engines.client import MAX_ANSWER_BYTES, Answer, Receiver, exchange
from orchd.errors import EngineError
from tests.conftest import Drive
from tests.fakes.engine import KEY, Call, FakeEngine, Script, dies, hangs, refuses, tells

REQUEST = EngineRequest("POST", "/completion", b'{"prompt":"Once"}')


class Ear:
    """A receiver that keeps what it hears."""

    def __init__(self, is_enough: Callable[[bytes], bool] = lambda body: False) -> None:
        self.accepted = 0
        self.body = b""
        self.heard = asyncio.Event()
        self._is_enough = is_enough

    @property
    def receiver(self) -> Receiver:
        return Receiver(self._on_accepted, self._on_body)

    def _on_accepted(self) -> None:
        self.accepted += 1

    def _on_body(self, data: bytes) -> bool:
        self.body += data
        self.heard.set()
        return self._is_enough(self.body)


def sends(*pieces: bytes) -> Script:
    async def script(call: Call) -> None:
        for piece in pieces:
            call.send(piece)

    return script


def test_a_stream_goes_to_its_receiver(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        ear = Ear()
        async with FakeEngine(tells("Hel", "lo")) as engine:
            answer = await exchange(engine.endpoint, REQUEST, ear.receiver)
            call = engine.calls[0]
        assert (answer, ear.accepted) == (Answer(200, b""), 1)
        assert ear.body.count(b"\n\n") == 3
        assert (call.method, call.path, call.body) == ("POST", "/completion", {"prompt": "Once"})
        assert call.headers["authorization"] == f"Bearer {KEY}"
        assert call.headers["host"] == f"127.0.0.1:{engine.endpoint.port}"

    drive(scenario())


def test_without_a_receiver_the_answer_is_kept(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(refuses(200, b'{"status":"ok"}')) as engine:
            answer = await exchange(engine.endpoint, EngineRequest("GET", "/health"))
        assert answer == Answer(200, b'{"status":"ok"}')

    drive(scenario())


@pytest.mark.parametrize("status", [400, 503, 302, 204])
def test_an_answer_other_than_200_is_kept_and_not_received(drive: Drive[Any], status: int) -> None:
    async def scenario() -> None:
        ear = Ear()
        body = b"" if status == 204 else b"why"
        async with FakeEngine(refuses(status, body)) as engine:
            answer = await exchange(engine.endpoint, REQUEST, ear.receiver)
        assert (answer, ear.accepted, ear.body) == (Answer(status, body), 0, b"")

    drive(scenario())


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        (dies(accepts=False), "hung up before the end of its answer"),
        (dies("a"), "hung up before the end of its answer"),
        (dies("a", resets=True), "hung up before the end of its answer"),
        (sends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"), "hung up before the end"),
        (sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nha"), "hung up before"),
        (sends(b"SSH-2.0-OpenSSH_9.2p1 \r\n\r\n"), "does not answer in HTTP: illegal status line$"),
        (
            sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret token\r\n"),
            "does not answer in HTTP: illegal chunk header$",
        ),
        (refuses(500, b"x" * (MAX_ANSWER_BYTES + 1)), "answered with more than 1048576 bytes"),
    ],
)
def test_an_engine_that_breaks_its_side(drive: Drive[Any], script: Script, fault: str) -> None:
    async def scenario() -> None:
        async with FakeEngine(script) as engine:
            with pytest.raises(EngineError, match=fault):
                await exchange(engine.endpoint, REQUEST, Ear().receiver)

    drive(scenario())


def test_an_answer_that_the_connections_end_ends(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        ear = Ear()
        head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
        async with FakeEngine(sends(head, b"all")) as engine:
            await exchange(engine.endpoint, REQUEST, ear.receiver)
        assert (ear.accepted, ear.body) == (1, b"all")

    drive(scenario())


def test_an_engine_that_is_not_there(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with pytest.raises(EngineError, match=r"does not accept connections .*refused"):
            await exchange(Endpoint("r0", "127.0.0.1", port, KEY), REQUEST)

    drive(scenario())


def test_an_engine_whose_backlog_is_full(drive: Drive[Any]) -> None:
    """Its process hangs: the system drops what knocks, and would try again for minutes."""

    async def scenario() -> None:
        with (
            contextlib.ExitStack() as knocking,
            socket.create_server(("127.0.0.1", 0), backlog=0) as hung,
        ):
            address = hung.getsockname()
            for _ in range(2):
                knock = knocking.enter_context(socket.socket())
                knock.setblocking(False)
                knock.connect_ex(address)
            endpoint = Endpoint("r0", address[0], address[1], KEY)
            with pytest.raises(EngineError, match=r"^does not accept connections within 0.1 s$"):
                await exchange(endpoint, REQUEST, connect_timeout_s=0.1)

    drive(scenario())


def test_a_connection_that_stands_has_no_time_limit(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine:
            ear = Ear()
            asking = exchange(engine.endpoint, REQUEST, ear.receiver, connect_timeout_s=0.2)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await asking
            assert ear.accepted

    drive(scenario())


@pytest.mark.parametrize("accepts", [True, False])
def test_cancelling_closes_the_connection(drive: Drive[Any], accepts: bool) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a", accepts=accepts)) as engine:
            ear = Ear()
            asking = asyncio.ensure_future(exchange(engine.endpoint, REQUEST, ear.receiver))
            call = await engine.wait_for_calls(1)
            if accepts:
                await ear.heard.wait()
            asking.cancel()
            await call.is_left.wait()
            with pytest.raises(asyncio.CancelledError):
                await asking

    drive(scenario())


def test_cancelling_before_the_connection_stands(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs()) as engine:
            for turns in range(6):
                asking = asyncio.ensure_future(exchange(engine.endpoint, REQUEST))
                for _ in range(turns):
                    await asyncio.sleep(0)
                asking.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await asking
            for call in engine.calls:
                await call.is_left.wait()

    drive(scenario())
    assert not caplog.records


def test_cancelling_does_not_wait_for_an_engine_that_reads_no_more(drive: Drive[Any]) -> None:
    """A hung engine would otherwise hold the connection for as long as it hangs."""
    body = b"x" * (16 * 1024 * 1024)  # more than two sockets' buffers hold

    async def scenario() -> None:
        arrived: asyncio.Queue[asyncio.StreamReader] = asyncio.Queue()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.put_nowait(reader)
            writers.append(writer)

        writers: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(take, "127.0.0.1", 0, limit=1024)
        endpoint = Endpoint("r0", "127.0.0.1", server.sockets[0].getsockname()[1], KEY)
        asking = asyncio.ensure_future(exchange(endpoint, EngineRequest("POST", "/", body)))
        reader = await arrived.get()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        received = 0
        try:
            while data := await reader.read(65536):
                received += len(data)
        except ConnectionError:
            pass
        assert received < len(body)
        writers[0].close()
        server.close()
        await server.wait_closed()

    drive(scenario())


def test_a_receiver_that_has_heard_enough_ends_the_exchange(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a", "b")) as engine:
            ear = Ear(is_enough=lambda body: b'"b"' in body)
            answer = await exchange(engine.endpoint, REQUEST, ear.receiver)
            await engine.calls[0].is_left.wait()
        assert answer == Answer(200, b"")

    drive(scenario())


@pytest.mark.parametrize("error", [EngineError("what it may not say"), AssertionError("our bug")])
@pytest.mark.parametrize("is_early", [True, False])
def test_what_a_receiver_raises_comes_out(
    drive: Drive[Any], error: Exception, is_early: bool
) -> None:
    """A bug of ours, too: else it would pass for an engine that hung up."""

    def fail(*_: object) -> None:
        raise error

    async def scenario() -> None:
        receiver = Receiver(fail, lambda _: False) if is_early else Receiver(lambda: None, fail)
        async with FakeEngine(hangs("a")) as engine:
            with pytest.raises(type(error), match=str(error)):
                await exchange(engine.endpoint, REQUEST, receiver)
            await engine.calls[0].is_left.wait()

    drive(scenario())

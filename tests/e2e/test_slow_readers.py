"""Readers that stall or dawdle, in counts and order: they cost nobody anything, and miss nothing.

Everything from the engine's socket to the reader's is real and in this process, so that its buffers
can be looked at; the engine's words come from a fake one.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from typing import Any

from orchd.api.door import Door
from orchd.config.listen import Listen
from orchd.engines.adapter import Generation
from orchd.http1.connection import Connection
from orchd.http1.limits import Limits
from orchd.http1.messages import Accepted, Head, Reply, Request, Response, Source, StreamedResponse
from orchd.http1.server import HttpServer
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.service import Service
from orchd.serving.task import Admitted
from tests.conftest import Drive
from tests.fakes.engine import Call, FakeEngine
from tests.fakes.house import build_served
from tests.http1.raw import Client, settle
from tests.serving.samples import make_pool

TOKEN = "a-token-for-tests"
STREAMS = 32
TOKENS = 100
TEXT = "x" * 2500
"""With it a stream has some 250 KB, several times what the buffers on its way hold together."""
SOCKET_BYTES = 4096
LIMITS = Limits(pull_bytes=8 * 1024)
HELD_BYTES = 64 * 1024 + LIMITS.pull_bytes
"""What a transport holds at most: uvloop's high-water mark, and one pull that goes beyond it."""


class _Counted:
    """A source that keeps count of what was pulled out of it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.pulls = 0
        self.pulled_bytes = 0

    def attach(self, wake: Callable[[], None]) -> None:
        self._source.attach(wake)

    def detach(self) -> None:
        self._source.detach()

    def pull(self, limit_bytes: int) -> bytes:
        frames = self._source.pull(limit_bytes)
        self.pulls += 1
        self.pulled_bytes += len(frames)
        return frames

    @property
    def has_more(self) -> bool:
        return self._source.has_more

    @property
    def is_finished(self) -> bool:
        return self._source.is_finished

    def describe_wait(self) -> str:
        return self._source.describe_wait()


class _WatchedDoor:
    """The door, with every stream that went through it, by the path of its request."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.sources: dict[str, _Counted] = {}

    def open(self, head: Head) -> Accepted | Response:
        verdict = self._door.open(head)
        if not isinstance(verdict, Accepted):
            return verdict

        def handle(request: Request) -> Reply:
            reply = verdict.handler(request)
            if isinstance(reply, StreamedResponse):
                counted = self.sources[head.path] = _Counted(reply.source)
                return StreamedResponse(counted, reply.status, reply.headers)
            return reply

        return Accepted(handle, verdict.params)

    def refuse(self, error: Any) -> Response:
        return self._door.refuse(error)


class _WatchedServer(HttpServer):
    """The server, with every transport, and with sockets that hold little."""

    def __init__(self, door: _WatchedDoor) -> None:
        super().__init__(door, LIMITS)
        self.transports: dict[int, asyncio.Transport] = {}
        """By the client's port."""

    def opened(self, connection: Connection) -> None:
        super().opened(connection)
        transport = connection._transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        self.transports[transport.get_extra_info("peername")[1]] = transport


async def connect(listen: Listen) -> socket.socket:
    """A client's socket that holds next to nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (listen.host, listen.port))
    return sock


async def ask(sock: socket.socket, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(sock, head.encode())


async def read_whole(sock: socket.socket) -> bytes:
    reader, writer = await asyncio.open_connection(sock=sock)
    body = (await Client(reader, writer).answer()).body
    writer.close()
    return body


async def read_bytewise(sock: socket.socket) -> bytes:
    """One byte a loop turn, to the last chunk."""
    loop = asyncio.get_running_loop()
    read = bytearray()
    while not read.endswith(b"\r\n0\r\n\r\n"):
        byte = await loop.sock_recv(sock, 1)
        assert byte, "the stream breaks off"
        read += byte
        await asyncio.sleep(0)
    return bytes(read)


def check_story(body: bytes) -> None:
    """Every event, in order, to the end; comments are passed over."""
    events = [part for part in body.decode().split("\n\n") if part and not part.startswith(":")]
    ids = [int(event.split("\n")[0].removeprefix("id: ")) for event in events]
    assert ids == list(range(TOKENS + 2))
    assert "\nevent: started\n" in events[0] and "\nevent: end\n" in events[-1]
    told = [re.search(r'"t":"(\d+) (x+)","i":(\d+)', event) for event in events[1:-1]]
    assert [(m[1], m[2], m[3]) for m in told if m] == [
        (str(n), TEXT, str(n)) for n in range(TOKENS)
    ]


def unchunk(data: bytes) -> bytes:
    """The body of one chunked answer."""
    data, body = data.partition(b"\r\n\r\n")[2], b""
    while data:
        size, _, data = data.partition(b"\r\n")
        body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return body


def test_slow_readers_cost_nobody_anything_and_miss_nothing(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        told: list[int] = []

        async def tell(call: Call) -> None:
            call.accept()
            for number in range(TOKENS):
                call.say(f"{number} {TEXT}")
                await call.drain()
            call.finish()
            await call.drain()
            told.append(call.tokens)

        async with FakeEngine(tell) as engine:
            pool = make_pool(slots=STREAMS, ctx=TOKENS)
            service, context = build_served(pool)
            door = _WatchedDoor(Door(context, TOKEN))
            server = _WatchedServer(door)
            listen = await server.start(Listen("127.0.0.1", 0))
            assert isinstance(listen, Listen)
            try:
                service.open_slots(pool, engine.endpoint)
                await attend(service, server, door, listen)
                assert told == [TOKENS] * STREAMS
            finally:
                await service.end_tasks()
                await server.stop(0)

    drive(scenario())


async def attend(
    service: Service, server: _WatchedServer, door: _WatchedDoor, listen: Listen
) -> None:
    admitted = [service.submit(TaskRequest(Generation(prompt="Once"))) for _ in range(STREAMS)]
    ids = [outcome.task_id for outcome in admitted if isinstance(outcome, Admitted)]
    paths = [f"/v1/tasks/{task_id}/stream" for task_id in ids]
    socks = [await connect(listen) for _ in paths]
    for sock, path in zip(socks, paths, strict=True):
        await ask(sock, path)
    stalled, *others, dawdling = socks

    slow = asyncio.create_task(read_bytewise(dawdling))
    for body in await asyncio.gather(*map(read_whole, others)):
        check_story(body)
    # It takes a loop turn for each byte, the others one for each bufferful.
    assert not slow.done(), "the dawdling one was no slower than the others"

    # All that the engine said has been read and logged; of the two only the cursors lag.
    entries = [entry for task_id in ids if (entry := service.find(task_id)) is not None]
    await settle(lambda: all(entry.log.is_closed for entry in entries))
    assert [len(entry.log) for entry in entries] == [TOKENS + 2] * STREAMS
    for sock, path in ((stalled, paths[0]), (dawdling, paths[-1])):
        transport = server.transports[sock.getsockname()[1]]
        assert 0 < transport.get_write_buffer_size() <= HELD_BYTES
        assert door.sources[path].pulled_bytes < entries[0].log.cost_bytes / 2

    source = door.sources[paths[0]]
    pulls = source.pulls
    check_story(unchunk(await slow))
    assert source.pulls == pulls, "pulled for a reader that takes nothing"
    check_story(await read_whole(stalled))
    dawdling.close()

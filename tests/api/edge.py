"""The real door, routes and body checks behind a live socket, with a house that only says yes."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import uvloop

from orchd.config.listen import Listen
from orchd.http1.server import HttpServer
from orchd.reload_outcome import Reloaded, Strategy
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.task import Admitted, Ended, Rejected, Started, Token
from tests.contracts.seen import SeenDoor
from tests.fakes.house import TASK_ID, FakeReloads, FakeReplica, FakeService, build_context

TOKEN = "s3cret"
TIMEOUT_S = 30.0
TURNS = 2
"""Loop turns after which the server has read what was written."""


class _AgreeableService(FakeService):
    """Admits everything; the position that it tells is a checksum of what it was asked."""

    def submit(self, request: TaskRequest) -> Admitted | Rejected:
        super().submit(request)
        del self.submitted[:-1]
        self.cancelled.clear()
        asked = (request, request.generation.prompt, request.generation.messages)
        position = zlib.crc32(repr(asked).encode("utf-8", "surrogatepass"))
        return Admitted(request.task_id or TASK_ID, position, 0, 0)


class Edge:
    """A server that lives for many examples; each of them has a connection of its own."""

    def __init__(self) -> None:
        self.service = _AgreeableService()
        events = (Started(0, 0), Token("a", 0), Ended(1, 1, 1, "stop"))
        self.service.add(TASK_ID, *events)
        self._faults: list[Any] = []
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        reloaded = Reloaded("chat", "/models/b.gguf", "/models/a.gguf", Strategy.IN_PLACE, 1)
        self.reloads = FakeReloads(reloaded)
        context = build_context(self.service, FakeReplica(), reload=self.reloads)
        self._server = HttpServer(SeenDoor(context, TOKEN))
        listen = self._runner.run(self._server.start(Listen("127.0.0.1", 0)))
        assert isinstance(listen, Listen)
        self._listen = listen
        self._runner.get_loop().set_exception_handler(lambda _, fault: self._faults.append(fault))

    def send(self, pieces: Sequence[bytes]) -> bytes:
        """Send these one after the other, each to be read by itself; all that comes back."""
        answer = self._runner.run(asyncio.wait_for(self._send(pieces), TIMEOUT_S))
        assert not self._faults
        return answer

    async def _send(self, pieces: Sequence[bytes]) -> bytes:
        reader, writer = await asyncio.open_connection(self._listen.host, self._listen.port)
        try:
            for piece in pieces:
                writer.write(piece)
                for _ in range(TURNS):
                    await asyncio.sleep(0)
            writer.write_eof()
            return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    def close(self) -> None:
        self._runner.run(self._server.stop(0))
        assert self._server.connections == 0
        self._runner.close()


def open_edge() -> Iterator[Edge]:
    """For a fixture."""
    edge = Edge()
    try:
        yield edge
    finally:
        edge.close()

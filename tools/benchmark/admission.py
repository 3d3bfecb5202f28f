"""Tasks admitted a second, beside what h11 alone does with the same bytes.

Both in CPU time: tasks for a second of the daemon's CPU, over requests for a second of a bare
loop's. The wall's clock would add what this machine does besides to one side only, the one with
sockets, and with several connections in flight the daemon has no pause that CPU time would leave
out; its share of a processor meanwhile is among the raw figures, so that this can be seen.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import cast

import h11
import orjson
import uvloop
from loopback import HOST

from benchmark.fake_engine import describe_pool
from benchmark.floor_app import answer_one
from benchmark.floors import run_answerer
from benchmark.ground import TOKEN, BenchError, Found, Ground, Stand, run_daemon
from benchmark.kernel import read_cpu_ns
from benchmark.streams import TIMEOUT_S, is_whole, post

CONNECTIONS = 4
_BODY = {"prompt": "Once upon a time", "max_tokens": 64}


class _Client(asyncio.Protocol):
    """Posts one task after another over one connection."""

    def __init__(self, request: bytes, count: int) -> None:
        self.ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        """Gets the last answer."""
        self._request, self._left = request, count
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        if not is_whole(self._answer):
            return
        if not self._answer.startswith(b"HTTP/1.1 202 "):
            self._fail(f"the daemon did not admit a task: {self._answer[-300:]!r}")
            return
        self._left -= 1
        if self._left:
            self._answer = b""
            self._transport.write(self._request)
        else:
            self.ended.set_result(self._answer)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the daemon hung up on a client")

    def _fail(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(BenchError(reason))
            self._transport.abort()


def measure_admission(ground: Ground) -> Found:
    """The tasks wait behind one that takes the only slot."""
    admit_us, bare_us, busy_pct = [], [], []
    with run_daemon(ground, describe_pool(ground, slots=1)) as stand:
        request = _make_request(stand, _BODY)
        _post(
            stand.port, _make_request(stand, {"prompt": "[every 1000000]", "max_tokens": 3600}), 1
        )
        answer = _post(stand.port, request, 50)
        for _ in range(ground.scale.post_rounds):
            before_ns, begun_s = read_cpu_ns(stand.pid), time.monotonic()
            _post(stand.port, request, ground.scale.posts)
            cpu_us = (read_cpu_ns(stand.pid) - before_ns) / 1e3
            busy_pct.append(cpu_us / 1e4 / (time.monotonic() - begun_s))
            admit_us.append(cpu_us / (ground.scale.posts // CONNECTIONS * CONNECTIONS))
            bare_us.append(time_bare_us(request, answer, ground.scale.posts))
    with run_answerer(ground, answer) as floor:
        before_ns = read_cpu_ns(floor.pid)
        _post(floor.port, request, ground.scale.posts)
        floor_us = (read_cpu_ns(floor.pid) - before_ns) / 1e3 / ground.scale.posts
    ratios = [bare / admit for bare, admit in zip(bare_us, admit_us, strict=True)]
    raw = {"daemon_cpu_us_per_post": median(admit_us), "h11_cpu_us_per_post": median(bare_us)}
    raw |= {"h11_with_sockets_cpu_us_per_post": floor_us}
    raw |= {"daemon_cpu_share_pct": median(busy_pct)}
    return Found({"admit_vs_h11": median(ratios)}, raw)


def _make_request(stand: Stand, task: dict[str, str | int] | dict[str, object]) -> bytes:
    return post(stand.port, "/v1/tasks", TOKEN.value, orjson.dumps(task))


def _post(port: int, request: bytes, count: int) -> bytes:
    """Posts so many tasks, over a few connections where they are many; returns the last answer."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_post_all(port, request, count))


async def _post_all(port: int, request: bytes, count: int) -> bytes:
    connections = min(CONNECTIONS, count)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT_S):
        pairs = [
            await loop.create_connection(lambda: _Client(request, count // connections), HOST, port)
            for _ in range(connections)
        ]
        answers = await asyncio.gather(*(client.ended for _, client in pairs))
    return answers[-1]


def time_bare_us(request: bytes, answer: bytes, count: int) -> float:
    """CPU time that h11 takes for one request like this and one answer like that, no sockets."""
    connection, written = h11.Connection(h11.SERVER), None
    before_ns = time.thread_time_ns()
    for _ in range(count):
        written = answer_one(connection, request, answer)
    cpu_ns = time.thread_time_ns() - before_ns
    assert written is not None and len(written) == len(answer), "h11 wrote another answer"
    return cpu_ns / 1e3 / count

"""The ways in which a client can use a connection and leave it, each a coroutine over a socket."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchd.config.listen import Listen

TOKEN = "a-token-for-tests"
FIELDS = f"Host: a\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
HEALTH = b"GET /health HTTP/1.1\r\n%s\r\n" % FIELDS
TASK = b'{"prompt": "Once upon a time"}'
SUBMIT = b"POST /v1/tasks HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (FIELDS, len(TASK), TASK)
RELOAD = b"POST /v1/pools/chat/reload HTTP/1.1\r\n%s" % FIELDS
RELOAD_AFRESH = RELOAD + b"\r\n"
"""Is never over."""
RELOAD_OTHER = RELOAD + b'Content-Length: 23\r\n\r\n{"new_model_ref": "/a"}'
"""Is over soon."""
RESET_AT_CLOSE = struct.pack("ii", 1, 0)
READ_BYTES = 64 * 1024


def stream_of(task: str) -> bytes:
    """A request for the stream of a task."""
    return b"GET /v1/tasks/%s/stream HTTP/1.1\r\n%s\r\n" % (task.encode(), FIELDS)


@dataclass(frozen=True, slots=True)
class Visit:
    """One client's connection."""

    sock: socket.socket
    loop: asyncio.AbstractEventLoop

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def expect(self, words: bytes) -> bytes:
        """Read until the words have come."""
        read = b""
        while words not in read:
            data = await self.loop.sock_recv(self.sock, READ_BYTES)
            assert data, f"closed before {words!r}, after {read!r}"
            read += data
        return read

    async def expect_end(self) -> None:
        """Read until the server closes."""
        while await self.loop.sock_recv(self.sock, READ_BYTES):
            pass

    def close_half(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Let the close be a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_AT_CLOSE)


async def visit(listen: Listen, way: Callable[[Visit], Awaitable[None]]) -> None:
    """Connect, go that way, close."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        # Before it connects, or it would not count: a stalled reader is to stall soon.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(sock, (listen.host, listen.port))
        await way(Visit(sock, loop))


async def say_nothing(it: Visit) -> None:
    """No byte at all."""


async def reset_at_once(it: Visit) -> None:
    it.reset()


async def leave_within_head(it: Visit) -> None:
    await it.send(HEALTH[:30])


async def half_close_within_head(it: Visit) -> None:
    await it.send(HEALTH[:30])
    it.close_half()
    await it.expect(b"400 Bad Request")
    await it.expect_end()


async def ask_and_leave(it: Visit) -> None:
    await it.send(HEALTH)


async def ask_and_reset(it: Visit) -> None:
    await it.send(SUBMIT)
    it.reset()


async def keep_alive(it: Visit) -> None:
    for request, status in ((HEALTH, b" 200 OK"), (SUBMIT, b" 202 Accepted")):
        await it.send(request)
        await it.expect(status)


async def half_close(it: Visit) -> None:
    await it.send(HEALTH)
    it.close_half()
    await it.expect(b" 200 OK")
    await it.expect_end()


async def leave_within_body(it: Visit) -> None:
    await it.send(SUBMIT[:-10])


async def reset_within_body(it: Visit) -> None:
    await it.send(SUBMIT[:-10])
    it.reset()


async def expect_and_leave(it: Visit) -> None:
    await it.send(SUBMIT[: -len(TASK) - 2] + b"Expect: 100-continue\r\n\r\n")
    await it.expect(b" 100 ")


async def pipeline(it: Visit) -> None:
    await it.send(HEALTH * 5 + SUBMIT)
    await it.expect(b" 202 Accepted")


async def pipeline_and_leave(it: Visit) -> None:
    await it.send(stream_of("endless") + HEALTH * 20)


async def pipeline_and_reset(it: Visit) -> None:
    await it.send(HEALTH * 20)
    it.reset()


async def be_unauthorized(it: Visit) -> None:
    await it.send(b"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    await it.expect(b" 401 Unauthorized")


async def be_too_large(it: Visit) -> None:
    await it.send(b"POST /v1/tasks HTTP/1.1\r\n%sContent-Length: 999999999\r\n\r\n" % FIELDS)
    await it.expect(b" 413 ")
    it.close_half()
    await it.expect_end()


async def be_malformed(it: Visit) -> None:
    await it.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n")
    await it.expect(b" 400 Bad Request")


async def stream_to_the_end(it: Visit) -> None:
    await it.send(stream_of("ended"))
    await it.expect(b"\r\n0\r\n\r\n")
    await it.send(HEALTH)
    await it.expect(b" 200 OK")


async def stream_and_leave(it: Visit) -> None:
    await it.send(stream_of("endless"))
    await it.expect(b"event: token")


async def stream_and_reset(it: Visit) -> None:
    await it.send(stream_of("endless"))
    await it.expect(b"event: token")
    it.reset()


async def stream_and_half_close(it: Visit) -> None:
    await it.send(stream_of("endless"))
    it.close_half()
    await it.expect(b": waiting in")


async def stream_and_stall(it: Visit) -> None:
    """The first bytes are read, and a log is left that no socket takes whole."""
    await it.send(stream_of("long"))
    await it.loop.sock_recv(it.sock, 100)
    it.reset()


async def reload_to_the_end(it: Visit) -> None:
    await it.send(RELOAD_OTHER)
    await it.expect(b'"took_ms":')
    await it.send(HEALTH)
    await it.expect(b" 200 OK")


async def reload_and_half_close(it: Visit) -> None:
    await it.send(RELOAD_OTHER)
    it.close_half()
    await it.expect(b'"took_ms":')
    await it.expect_end()


async def reload_and_leave(it: Visit) -> None:
    await it.send(RELOAD_AFRESH + HEALTH)


async def reload_and_reset(it: Visit) -> None:
    await it.send(HEALTH + RELOAD_AFRESH)
    await it.expect(b" 200 OK")
    it.reset()


WAYS = (
    say_nothing,
    reset_at_once,
    leave_within_head,
    half_close_within_head,
    ask_and_leave,
    ask_and_reset,
    keep_alive,
    half_close,
    leave_within_body,
    reset_within_body,
    expect_and_leave,
    pipeline,
    pipeline_and_leave,
    pipeline_and_reset,
    be_unauthorized,
    be_too_large,
    be_malformed,
    stream_to_the_end,
    stream_and_leave,
    stream_and_reset,
    stream_and_half_close,
    stream_and_stall,
    reload_to_the_end,
    reload_and_half_close,
    reload_and_leave,
    reload_and_reset,
)

"""Random and mutated bytes: always the envelope or a clean end, and the next client is served."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.http1.limits import Limits
from orchd.http1.messages import Accepted, Head, PendingResponse, Response
from tests.fakes.application import FakeApplication, FakeSource
from tests.http1.raw import GET, Answer, client_of, serving

PIECES = [
    b"GET",
    b"HEAD",
    b"POST",
    b"CONNECT",
    b"OPTIONS",
    b" ",
    b"/echo",
    b"/none",
    b"/secret",
    b"/stream/0",
    b"/nothing",
    b"/later",
    b"http://a/echo",
    b"*",
    b" HTTP/1.1\r\n",
    b" HTTP/1.0\r\n",
    b" HTTP/2.0\r\n",
    b"Host: a\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"\r\n",
    b"\n",
    b"\r",
    b"abc",
    b"3\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffffffff\r\n",
    b"\x00",
    b"\xff",
    b": ",
    b"x" * 3000,
]
HEADS = [
    b"%s %s HTTP/%s\r\nHost: a\r\n%s\r\n" % (method, path, version, length)
    for method in (b"GET", b"HEAD", b"POST")
    for path in (b"/echo", b"/none", b"/secret", b"/stream/0", b"/nothing", b"/later")
    for version in (b"1.1", b"1.0", b"2.0", b"1.7")
    for length in (b"", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n")
]
BODIES = [b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3;x\r\nab", b"zzz\r\n"]
"""Whole requests, so that mutations come far enough."""

PING = b": waiting\n\n"
"""A client that closes its half is asked whether it still reads."""

requests = st.tuples(st.sampled_from(HEADS), st.sampled_from(BODIES)).map(b"".join)
salads = st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=20).map(b"".join)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(b"".join(draw(st.lists(requests, min_size=1, max_size=4))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3) | st.sampled_from(PIECES)
        )
    return bytes(data)


def read_chunks(data: bytes) -> tuple[bytes, bytes]:
    """A chunked body, and what follows it."""
    body = b""
    while True:
        size, separator, data = data.partition(b"\r\n")
        length = int(size, 16)
        assert separator and data[length : length + 2] == b"\r\n"
        body, data = body + data[:length], data[length + 2 :]
        if not length:
            return body, data


def read_answers(data: bytes, sent: bytes) -> list[Answer]:
    """What came back, told apart without knowing which request was which: lengths say it."""
    answers: list[Answer] = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, f"a torn head: {head!r}"
        status_line, *lines = head.decode("latin-1").split("\r\n")
        version, status, reason = status_line.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        answer = Answer(int(status), reason, headers, b"", [])
        answers.append(answer)
        if answer.status in (100, 204):
            continue
        # A reply to HEAD says a length and has no body: then another reply or nothing follows.
        is_bodiless = b"HEAD" in sent and (not data or data.startswith(b"HTTP/1.1 "))
        if is_bodiless:
            continue
        if "content-length" in headers:
            length = int(headers["content-length"])
            assert len(data) >= length
            answer.body, data = data[:length], data[length:]
        elif "transfer-encoding" in headers:
            body, data = read_chunks(data)
            assert body.removeprefix(PING) == b"data"
        else:
            assert headers["connection"] == "close" and data.removeprefix(PING) == b"data"
            data = b""
        if answer.status >= 400:
            answer.envelope()
    return answers


class _Fresh(FakeApplication):
    """A new source for each stream; what comes later comes in the next loop turn."""

    def open(self, head: Head) -> Accepted | Response:
        self.sources = (FakeSource(b"data", is_ended=True),)
        return super().open(head)

    def _promise(self) -> PendingResponse:
        pending = super()._promise()
        done = Response(200, b"later")
        asyncio.get_running_loop().call_soon(self.futures[-1].set_result, done)
        return pending


async def throw(data: bytes, cut: int, limits: Limits) -> None:
    faults: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context))
    async with serving(_Fresh(), limits) as (server, listen):
        async with client_of(listen) as client:
            client.writer.write(data[:cut])
            await asyncio.sleep(0.0005)
            client.writer.write(data[cut:])
            client.writer.write_eof()
            read_answers(await client.reader.read(), data)
        async with client_of(listen) as client:
            assert (await client.ask(GET)).body == b"hello"
        assert server.connections <= 2
    assert not faults


@settings(max_examples=150, deadline=None)
@given(
    data=salads | mutated() | st.binary(max_size=200),
    cut=st.integers(0, 100),
    slice_bytes=st.sampled_from([1, 7, 4096]),
)
def test_bytes_of_any_kind(data: bytes, cut: int, slice_bytes: int) -> None:
    limits = Limits(head_bytes=4096, body_bytes=1000, slice_bytes=slice_bytes)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(throw(data, cut, limits))

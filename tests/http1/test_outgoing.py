"""A reply's bytes: what is added to its head, what must not be, and how its parts are framed."""

from __future__ import annotations

from http import HTTPStatus
from typing import cast

import h11
import pytest

from orchd.http1.messages import Headers, Response, Source, StreamedResponse
from orchd.http1.outgoing import INTERIM, LAST_CHUNK, build_head, frame_chunk

DATE = b"Mon, 23 Nov 2026 12:00:00 GMT"
STREAM = StreamedResponse(cast(Source, None))


def read(data: bytes, method: str = "GET") -> list[h11.Event]:
    """What a client makes of it."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    events: list[h11.Event] = []
    while isinstance(event := client.next_event(), h11.Event):
        events.append(event)
        if isinstance(event, h11.EndOfMessage):
            break
    return events


@pytest.mark.parametrize(
    ("reply", "is_last", "is_chunked", "added"),
    [
        (Response(200, b"four"), False, False, [(b"content-length", b"4")]),
        (Response(404), False, False, [(b"content-length", b"0")]),
        (Response(204), False, False, []),
        (Response(200, b"a"), True, False, [(b"connection", b"close"), (b"content-length", b"1")]),
        (STREAM, False, True, [(b"transfer-encoding", b"chunked")]),
        (STREAM, True, False, [(b"connection", b"close")]),
        (STREAM, True, True, [(b"connection", b"close"), (b"transfer-encoding", b"chunked")]),
    ],
    ids=["body", "empty", "no content", "last", "chunks", "last stream", "last chunks"],
)
def test_framing_and_close_are_added_where_they_apply(
    reply: Response | StreamedResponse,
    is_last: bool,
    is_chunked: bool,
    added: list[tuple[bytes, bytes]],
) -> None:
    head, *_ = read(build_head(reply, DATE, is_last=is_last, is_chunked=is_chunked))
    assert isinstance(head, h11.Response)
    assert list(head.headers) == [(b"date", DATE), *added]


def test_the_replys_own_headers_come_first_and_the_reason_is_said() -> None:
    head = build_head(Response(429, b"x", ((b"retry-after", b"7"),)), DATE, is_last=False)
    first, second, *_ = head.split(b"\r\n")
    assert (first, second) == (b"HTTP/1.1 429 Too Many Requests", b"retry-after: 7")


@pytest.mark.parametrize("status", HTTPStatus)
def test_every_status_has_its_line(status: HTTPStatus) -> None:
    line, _, _ = build_head(Response(status), DATE, is_last=True).partition(b"\r\n")
    assert line == f"HTTP/1.1 {status.value} {status.phrase}".encode()


@pytest.mark.parametrize(
    "headers",
    [
        ((b"a", b"b\rc"),),
        ((b"allow", b"GET\r\nset-cookie: a"),),
        ((b"a\nb", b"c"),),
        ((b"location", b"/\n"),),
    ],
)
def test_no_value_ends_its_line(headers: Headers) -> None:
    with pytest.raises(AssertionError, match="a line break"):
        build_head(Response(200, b"", headers), DATE, is_last=False)


def test_a_stream_in_chunks() -> None:
    head = build_head(STREAM, DATE, is_last=False, is_chunked=True)
    parts = [b"one", b"", b"x" * 5000, b"\r\n"]
    _, *events = read(head + b"".join(map(frame_chunk, parts)) + LAST_CHUNK)
    data = b"".join(event.data for event in events if isinstance(event, h11.Data))
    assert data == b"".join(parts)
    assert isinstance(events[-1], h11.EndOfMessage)


def test_an_interim_word_is_no_reply() -> None:
    interim, reply, *_ = read(INTERIM + build_head(Response(204), DATE, is_last=False))
    assert isinstance(interim, h11.InformationalResponse) and interim.status_code == 100
    assert isinstance(reply, h11.Response)

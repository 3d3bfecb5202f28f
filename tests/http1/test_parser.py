"""Bytes to heads, bodies and ends, without a socket."""

from __future__ import annotations

from typing import Any

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchd.errors import ClientError, Code
from orchd.http1 import intake
from orchd.http1.limits import Limits
from orchd.http1.parser import Event, Parser, Signal

GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: a\r\n"


class Stage:
    """A parser whose every request is answered as soon as it is whole."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.parser = Parser(limits or Limits())

    def feed(self, data: bytes) -> list[Event]:
        """Every event up to the one that asks for more, in as many turns as it takes."""
        self.parser.feed(data)
        self.parser.start_turn()
        return self.read()

    def read(self) -> list[Event]:
        events: list[Event] = []
        while True:
            event = self.parser.next_event()
            match event:
                case h11.Request():
                    self.parser.expect_body(intake.read_head(event))
                case Signal.END:
                    assert self.parser.is_whole
                    self.parser.start_next()
                    assert not self.parser.is_whole
                case Signal.NEED_DATA | Signal.CLOSED:
                    return [*events, event]
                case Signal.NEXT_TURN:
                    self.parser.start_turn()
            events.append(event)


def shown(events: list[Event]) -> list[Any]:
    """Without the turns, bodies joined, a head by its target."""
    result: list[Any] = []
    for event in events:
        match event:
            case h11.Request():
                result.append(event.target.decode())
            case bytes() if result and isinstance(result[-1], bytes):
                result[-1] += event
            case Signal.NEXT_TURN | b"":
                pass
            case _:
                result.append(event)
    return result


REQUESTS = [
    (GET, ["/a", Signal.END]),
    (b"\r\n\r\n" + GET, ["/a", Signal.END]),
    (POST + b"Content-Length: 3\r\n\r\nabc", ["/a", b"abc", Signal.END]),
    (POST + b"Content-Length: 0\r\n\r\n", ["/a", Signal.END]),
    (
        POST + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1;x\r\nc\r\n0\r\nX: y\r\n\r\n",
        ["/a", b"abc", Signal.END],
    ),
]


@pytest.mark.parametrize("at_once", [1, 2, 7, 1000])
@pytest.mark.parametrize(("data", "events"), REQUESTS)
def test_requests_in_pieces(data: bytes, events: list[Any], at_once: int) -> None:
    stage = Stage()
    seen: list[Event] = []
    for at in range(0, len(data), at_once):
        seen += stage.feed(data[at : at + at_once])
    assert shown([event for event in seen if event is not Signal.NEED_DATA]) == events
    assert stage.parser.waiting_bytes == 0 and stage.parser.needs_data


@pytest.mark.parametrize("slice_bytes", [1, 50, 4096])
def test_requests_one_behind_another(slice_bytes: int) -> None:
    data = b"".join(data for data, _ in REQUESTS) * 3
    stage = Stage(Limits(slice_bytes=slice_bytes))
    wanted = [event for _, events in REQUESTS for event in events] * 3
    assert shown(stage.feed(data)) == [*wanted, Signal.NEED_DATA]


def test_a_turn_is_over_after_a_slice() -> None:
    """Short heads take as long as longer ones: four are a slice, whatever their bytes."""
    stage = Stage()
    events = stage.feed(GET * 1000)
    assert events.count(Signal.NEXT_TURN) == 1000 / 4 - 1


@pytest.mark.parametrize("data", [GET, POST + b"Content-Length: 1\r\n\r\na"])
def test_a_request_that_came_alone_takes_one_turn(data: bytes) -> None:
    """A server that stops meanwhile would take its connection for idle."""
    stage = Stage(Limits(slice_bytes=1))
    stage.feed(data[:-1])
    assert Signal.NEXT_TURN not in stage.feed(data[-1:])


def test_nothing_of_a_later_request_is_taken_before_its_turn() -> None:
    stage = Stage()
    later = POST + b"Content-Length: 3\r\n\r\nabc" + GET
    stage.parser.feed(GET + later)
    assert isinstance(stage.parser.next_event(), h11.Request)
    assert stage.parser.waiting_bytes == len(later)


@pytest.mark.parametrize("count", [1, 8])
def test_some_empty_lines_are_skipped_also_behind_a_body(count: int) -> None:
    stage = Stage()
    for data in (GET, POST + b"Content-Length: 1\r\n\r\na"):
        assert shown(stage.feed(data + b"\r\n" * count))[-2:] == [Signal.END, Signal.NEED_DATA]
        assert stage.parser.waiting_bytes == 0


def test_but_not_any_number_of_them() -> None:
    stage = Stage()
    stage.feed(GET + b"\r\n" * 8)
    with pytest.raises(ClientError, match="no request line"):
        stage.feed(b"\r\n")


@pytest.mark.parametrize(
    "data",
    [b"G", b"\r", GET[:-1], POST + b"Content-Length: 3\r\n\r\nab", GET + b"GET"],
)
def test_an_end_in_the_middle(data: bytes) -> None:
    stage = Stage()
    stage.feed(data)
    stage.parser.feed_eof()
    with pytest.raises(ClientError, match="closed in the middle"):
        stage.read()


@pytest.mark.parametrize("data", [b"", GET, GET + b"\r\n"])
def test_an_end_between_two_requests(data: bytes) -> None:
    stage = Stage()
    stage.feed(data)
    stage.parser.feed_eof()
    assert stage.read() == [Signal.CLOSED]


def test_both_limits_of_a_head_hold_however_it_comes() -> None:
    limits = Limits(head_bytes=100)
    for at_once in (1, 1000):
        with pytest.raises(ClientError) as caught:
            stage = Stage(limits)
            for at in range(0, 1000, at_once):
                stage.feed((b"GET / HTTP/1.1\r\nX: " + b"x" * 1000)[at : at + at_once])
        assert caught.value.code is Code.HEADERS_TOO_LARGE
        assert stage.parser.waiting_bytes <= max(101, at_once)


class CountingBuffer(bytearray):
    """Counts the bytes that a search may have looked at."""

    looked_at = 0

    def find(self, sub: Any, start: Any = 0, end: Any = None) -> int:
        CountingBuffer.looked_at += len(self) - start
        return super().find(sub, start, len(self) if end is None else end)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /" + b"x" * 30_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: yyyyyyyyyyyyyyyyy\r\n" * 95 + b"\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"x" * 30_000 + b"\r\na\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"x" * 30_000 + b"\r\n\r\n",
    ],
)
def test_byte_by_byte_the_work_grows_with_the_bytes_alone(data: bytes) -> None:
    stage = Stage(Limits(slice_bytes=1))
    stage.parser._inbox = CountingBuffer()
    CountingBuffer.looked_at = 0
    events: list[Event] = []
    for at in range(len(data)):
        events += stage.feed(data[at : at + 1])
        # A head is judged from here on when more of it comes.
        assert stage.parser._scanned == at + 1 or at >= data.index(b"\r\n\r\n") + 3
    assert Signal.END in events
    assert CountingBuffer.looked_at < 6 * len(data)


def test_what_was_judged_of_a_head_is_not_judged_again() -> None:
    stage = Stage()
    stage.feed(GET[:20])
    stage.parser._inbox[5] = 0
    assert stage.feed(GET[20:-1]) == [Signal.NEED_DATA]
    # Only when it is whole, once.
    with pytest.raises(ClientError, match="a control character"):
        stage.feed(GET[-1:])


def test_a_stream_of_body_is_handed_on_as_it_comes() -> None:
    stage = Stage()
    stage.feed(POST + b"Content-Length: 1000000\r\n\r\n")
    for _ in range(9):
        assert stage.feed(bytes(100_000))[0] == bytes(100_000)
        assert stage.parser.waiting_bytes == 0
    assert stage.feed(bytes(100_000))[-2:] == [Signal.END, Signal.NEED_DATA]


LINES = st.sampled_from(
    [
        *(b"GET /a HTTP/1.1", b"GET /a HTTP/1.0", b"GET  /a HTTP/1.1", b"GET /a b HTTP/1.1"),
        *(b"G(T /a HTTP/1.1", b"GET /\xc3 HTTP/1.1", b"GET /a HTTP/1.1 ", b"GET /a http/1.1"),
        *(b"GET /a", b"GET /a HTTP/1.11", b" HTTP/1.1", b"GET  HTTP/1.1"),
    ]
)
FIELDS = st.sampled_from(
    [
        *(b"Host: a", b"host:a", b"Host : a", b"Host", b"Host:", b":", b": a", b"A: b: c"),
        *(b"A:\t b \t", b"A: b  c", b"A:\xa0", b"A\xc3: b", b"Content-Length: 1", b"A:\xc2\x85"),
        *(b"Content-Length: 1, 1", b"content-length: 2", b"Content-Length: x"),
        *(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Connection: close"),
    ]
)


@given(LINES | st.binary(max_size=20), st.lists(FIELDS | st.binary(max_size=9), max_size=5))
@example(b"GET /a HTTP/1.1", [b"Host: a", b"A"])
def test_h11s_own_reader_reads_the_same_in_each_head(line: bytes, fields: list[bytes]) -> None:
    raw = b"\r\n".join([line, *fields, b"", b""])
    stage, reader = Stage(), h11.Connection(h11.SERVER)
    reader.receive_data(raw)
    stage.parser.feed(raw)
    try:
        event = stage.parser.next_event()
    except ClientError:
        return
    if not isinstance(event, h11.Request):
        return
    assert event == reader.next_event()

"""Bodies of answers, whole or torn anywhere, and what breaks them."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.engines.answer_body import AnswerBody, choose_body

CHUNKED = [(b"transfer-encoding", b"chunked")]


def feed(body: AnswerBody, *pieces: bytes) -> bytes:
    return b"".join([body.feed(piece) for piece in pieces])


def chunked() -> AnswerBody:
    return choose_body(200, CHUNKED)


@pytest.mark.parametrize(
    ("status", "headers", "data", "expected", "is_whole", "ends_with_connection"),
    [
        (200, [(b"content-length", b"3")], b"abcd", b"abc", True, False),
        (200, [(b"content-length", b"3")], b"ab", b"ab", False, False),
        (200, [(b"content-length", b"0")], b"", b"", True, False),
        (200, [], b"abc", b"abc", False, True),
        (204, [], b"", b"", True, False),
        (304, [(b"content-length", b"3")], b"", b"", True, False),
        # RFC 9112, section 6.3: the coding goes before the length.
        (200, [(b"content-length", b"9"), *CHUNKED], b"1\r\na\r\n0\r\n\r\n", b"a", True, False),
    ],
)
def test_what_a_head_announces(
    status: int,
    headers: list[tuple[bytes, bytes]],
    data: bytes,
    expected: bytes,
    is_whole: bool,
    ends_with_connection: bool,
) -> None:
    body = choose_body(status, headers)
    assert feed(body, data) == expected
    assert (body.is_whole, body.ends_with_connection) == (is_whole, ends_with_connection)
    assert body.fault is None


SHAPES = {
    b"3\r\nabc\r\n0\r\n\r\n": b"abc",
    b"3\r\nabc\r\n00a\r\n0123456789\r\n0\r\n\r\n": b"abc0123456789",
    b"3 ;name=value\r\n\r\n\n\r\n0;x\r\n\r\n": b"\r\n\n",
    b"1\r\na\r\n0\r\nTrailer: x\r\nanother: y\r\n\r\n": b"a",
    b"1\r\na\r\n3\r\nbcd\r\n0\r\n\r\n": b"abcd",
    b"0\r\n\r\n": b"",
    b"0\r\n1\r\na\r\n\r\n": b"",
}


@pytest.mark.parametrize("stream", SHAPES, ids=range(len(SHAPES)))
def test_chunks_torn_at_every_byte_give_the_same(stream: bytes) -> None:
    for cut in range(len(stream)):
        body = chunked()
        before = feed(body, stream[:cut])
        assert not body.is_whole
        assert before + feed(body, stream[cut:]) == SHAPES[stream]
        assert (body.is_whole, body.fault) == (True, None)
        assert feed(body, b"what is behind it") == b""
    body = chunked()
    assert feed(body, *(bytes([byte]) for byte in stream)) == SHAPES[stream] and body.is_whole


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.data())
def test_it_reads_what_h11_writes(parts: list[bytes], data: st.DataObject) -> None:
    writer = h11.Connection(h11.SERVER)
    writer.receive_data(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    writer.next_event()
    writer.send(h11.Response(status_code=200, headers=CHUNKED))
    events = [*(h11.Data(data=part) for part in parts), h11.EndOfMessage()]
    stream = b"".join([writer.send(event) or b"" for event in events])
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=6).map(sorted))
    ends = zip([0, *cuts], [*cuts, len(stream)], strict=True)
    body = chunked()
    assert feed(body, *(stream[start:end] for start, end in ends)) == b"".join(parts)
    assert (body.is_whole, body.fault) == (True, None)


@pytest.mark.parametrize(
    ("fits", "over"),
    [
        (b"0;" + b"x" * 16_382 + b"\r\n\r\n", b"0;" + b"x" * 16_383 + b"\r\n\r\n"),
        (b"0\r\n" + b"a: b\r\n" * 99 + b"\r\n", b"0\r\n" + b"a: b\r\n" * 100 + b"\r\n"),
    ],
    ids=["line", "trailers"],
)
def test_what_stands_between_chunks_has_a_bound(fits: bytes, over: bytes) -> None:
    for stream, is_fault in ((fits, False), (over, True)):
        body = chunked()
        assert feed(body, stream) == b""
        assert (body.fault is not None) is is_fault


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        (b"xyz\r\n", "illegal chunk header"),
        (b"\r\n", "illegal chunk header"),
        (b"-1\r\n", "illegal chunk header"),
        (b"0x1\r\n", "illegal chunk header"),
        (b"1_0\r\n", "illegal chunk header"),
        (b"1" * 17 + b"\r\n", "illegal chunk header"),
        (b"1\r\nab", "a chunk is longer than it said"),
        (b"1\r\nab\r\n", "a chunk is longer than it said"),
        (b"1\r\na\n", "a chunk is longer than it said"),
        (b"1;" + b"x" * 20_000, "a line between chunks has no end"),
        (b"0\r\n" + b"a: b\r\n" * 101, "too many trailer lines"),
    ],
)
def test_what_breaks_it_is_told_after_what_came_before(stream: bytes, fault: str) -> None:
    good, stream = b"2\r\nok\r\n", stream + b"\r\n"
    for pieces in ((good + stream,), (good, *(bytes([byte]) for byte in stream))):
        body = chunked()
        assert feed(body, *pieces).startswith(b"ok")
        assert (body.fault, body.is_whole) == (fault, False)
        assert feed(body, b"1\r\nx\r\n0\r\n\r\n") == b""

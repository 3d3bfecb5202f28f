"""Chunked bodies, by the letter of RFC 9112, section 7.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.errors import ClientError, Code
from orchd.http1.chunks import ChunkReader
from orchd.http1.limits import Limits

LIMITS = Limits(head_bytes=64, max_headers=3, body_bytes=100)
END = b"0\r\n\r\n"


def read(data: bytes, limits: Limits = LIMITS, at_once: int = 1 << 20) -> tuple[bytes, bytes]:
    """The body, and what follows it; fails where the body is not whole."""
    reader, inbox, body = ChunkReader(limits), bytearray(), b""
    for at in range(0, len(data), at_once):
        inbox += data[at : at + at_once]
        while True:
            before = len(inbox)
            part, _ = reader.read(inbox, 1 << 20)
            body += part
            if reader.is_whole:
                return body, bytes(inbox) + data[at + at_once :]
            if len(inbox) == before:
                break
    raise AssertionError(f"not whole: {data!r}")


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (END, b""),
        (b"3\r\nabc\r\n" + END, b"abc"),
        (b"A\r\n0123456789\r\n1\r\n\n\r\n" + END, b"0123456789\n"),
        (b"a\r\n0123456789\r\n" + END, b"0123456789"),
        (b"0000000000000003\r\nabc\r\n000\r\n\r\n", b"abc"),
        (b'3;a;b=c;d="e;\\"\r";f\r\nabc\r\n'.replace(b'\r"', b'"') + END, b"abc"),
        (b"3 ; a = b\r\nabc\r\n0;x\r\n\r\n", b"abc"),
        (b"0\r\nX: y\r\nZ:\r\n\r\n", b""),
        (b"2\r\n\r\n\r\n" + END, b"\r\n"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 2, 3, 1000])
def test_well_formed_bodies(data: bytes, body: bytes, at_once: int) -> None:
    assert read(data + b"GET /", at_once=at_once) == (body, b"GET /")


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=20), max_size=5),
    at_once=st.integers(1, 7),
)
def test_any_chunks_torn_anywhere(chunks: list[bytes], at_once: int) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + END
    assert read(data + b"next", at_once=at_once) == (b"".join(chunks), b"next")


MALFORMED = {
    "no size": b"\r\nabc\r\n",
    "no number": b"xyz\r\n",
    "negative": b"-3\r\nabc\r\n",
    "signed": b"+3\r\nabc\r\n",
    "prefixed": b"0x3\r\nabc\r\n",
    "underscore": b"1_0\r\n",
    "seventeen digits": b"00000000000000003\r\nabc\r\n",
    "space first": b" 3\r\nabc\r\n",
    "space last": b"3 \r\nabc\r\n",
    "tab last": b"3\t\r\nabc\r\n",
    "bare lf behind a size": b"3\nabc\r\n",
    "bare cr in a size": b"3\rabc\r\n",
    "bare cr in an extension": b"3;a\rb\r\nabc\r\n",
    "bare lf in an extension": b"3;a\nabc\r\n",
    "nul in an extension": b"3;a=\x00\r\nabc\r\n",
    "extension without a name": b"3;\r\nabc\r\n",
    "extension without a value": b"3;a=\r\nabc\r\n",
    "open quote": b'3;a="b\r\nabc\r\n',
    "longer than said": b"3\r\nabcd\r\n",
    "shorter than said": b"3\r\nab\r\n0\r\n\r\n",
    "bare lf behind data": b"3\r\nabc\n0\r\n\r\n",
    "bare lf at the end": b"0\r\n\n",
    "bare lf in the trailers": b"0\r\nX: y\n\r\n",
    "folded trailer": b"0\r\nX: y\r\n z\r\n\r\n",
    "space before a trailer's colon": b"0\r\nX : y\r\n\r\n",
    "no trailer": b"0\r\nGET / HTTP/1.1\r\n\r\n",
    "nul in a trailer": b"0\r\nX: \x00\r\n\r\n",
    "bare cr in a trailer": b"0\r\nX: a\rb\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("at_once", [1, 1000])
def test_what_is_malformed_is_refused(name: str, at_once: int) -> None:
    with pytest.raises(ClientError, match=r"not HTTP/1\.1") as caught:
        read(MALFORMED[name], at_once=at_once)
    assert caught.value.code is Code.INVALID_PARAMS


@pytest.mark.parametrize(
    "data",
    [b"65\r\n", b"ffffffffffffffff\r\n", b"64\r\n" + bytes(100) + b"\r\n1\r\n"],
)
def test_a_chunk_beyond_the_limit_is_refused_by_its_header(data: bytes) -> None:
    with pytest.raises(ClientError) as caught:
        read(data)
    assert caught.value.code is Code.PAYLOAD_TOO_LARGE
    assert len(read(b"64\r\n" + bytes(100) + b"\r\n" + END)[0]) == 100


@pytest.mark.parametrize("at_once", [1, 1 << 20])
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"1;" + b"x" * 100, Code.INVALID_PARAMS),
        (b"1;" + b"x" * 100 + b"\r\n", Code.INVALID_PARAMS),
        (b"1;xxxxxxx\r\na\r\n" * 20 + END, Code.INVALID_PARAMS),
        (b"f" * 100, Code.INVALID_PARAMS),
        (b"0\r\nX: " + b"x" * 100, Code.HEADERS_TOO_LARGE),
        (b"0\r\nX: " + b"x" * 100 + b"\r\n\r\n", Code.HEADERS_TOO_LARGE),
        (b"0\r\n" + b"X:\r\n" * 4 + b"\r\n", Code.HEADERS_TOO_LARGE),
    ],
)
def test_what_is_no_body_is_bounded(data: bytes, code: Code, at_once: int) -> None:
    with pytest.raises(ClientError) as caught:
        read(data, at_once=at_once)
    assert caught.value.code is code


def test_no_more_than_asked_for_is_taken_off_at_once() -> None:
    """Nearly all that it costs is the lines, so they count for more than their bytes."""
    inbox = bytearray(b"1\r\nx\r\n" * 100 + END)
    reader = ChunkReader(LIMITS)
    before = len(inbox)
    chunk_cost_bytes = 2 * LIMITS.line_cost_bytes + 1
    assert reader.read(inbox, 5 * chunk_cost_bytes) == (b"xxxxx", 5 * chunk_cost_bytes)
    assert len(inbox) == before - 30
    assert not reader.is_whole

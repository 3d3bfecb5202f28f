"""Server-sent events, whole or torn anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.engines import event_stream
from orchd.engines.event_stream import EventStreamReader
from orchd.errors import EngineError

SHAPES: dict[bytes, list[bytes]] = {
    b"data: a\n\n": [b"a"],
    b"data:a\n\n": [b"a"],
    b"data:  a\n\n": [b" a"],
    b"data\n\n": [b""],
    b"data: a\r\n\r\n": [b"a"],
    b"data: a\ndata: b\n\n": [b"a\nb"],
    b":\n\ndata: a\n\n:\n\n": [b"a"],
    b": ping\n\ndata: a\n\n": [b"a"],
    b"data: a\n:\ndata: b\n\n": [b"a\nb"],
    b"data: a\r\n:\r\ndata: b\r\n\r\n": [b"a\nb"],
    b"id: 1\nevent: token\nretry: 5\ndata: a\n\n": [b"a"],
    b"\n\n\ndata: a\n\n\n\ndata: b\n\n": [b"a", b"b"],
    b"data: \xf0\x9f\xa6\x99\n\n": [b"\xf0\x9f\xa6\x99"],
    b"data: a\n\ndata: never ended": [b"a"],
    b"data: a\n\ndata: never ended\n": [b"a"],
    b"dat: a\n\n": [],
    b"\xef\xbb\xbfdata: a\n\n": [b"a"],
    b"\xef\xbb\xbf\ndata: a\n\n": [b"a"],
    b"data: a\n\n\xef\xbb\xbfdata: b\n\n": [b"a"],
    b"": [],
}


def read(*chunks: bytes) -> list[bytes]:
    reader = EventStreamReader()
    return [data for chunk in chunks for data in reader.feed(chunk)]


@pytest.mark.parametrize("stream", SHAPES, ids=str)
def test_a_stream_torn_at_every_byte_gives_the_same_events(stream: bytes) -> None:
    assert read(stream) == SHAPES[stream]
    assert read(*(bytes([byte]) for byte in stream)) == SHAPES[stream]
    for cut in range(len(stream)):
        assert read(stream[:cut], stream[cut:]) == SHAPES[stream]


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"", b""),
        (b"\n\n", b""),
        (b": ping", b""),
        (b"data: a\n\n", b""),
        (b"data: a\n\ndata: b", b"b"),
        (b"data: a\r\n\r\ndata: b\r\n", b"b"),
        (b"data: b\ndata: c\r", b"b\nc"),
        (b"event: x\n", b""),
    ],
)
def test_what_lacks_its_blank_line_at_the_end_is_told_there(stream: bytes, data: bytes) -> None:
    reader = EventStreamReader()
    list(reader.feed(stream))
    assert reader.end() == data
    assert reader.end() == b""


@given(st.lists(st.sampled_from([b"data: a", b"data", b":", b"\n", b"\r\n", b"\xf0"])))
def test_where_bytes_are_torn_never_matters(pieces: list[bytes]) -> None:
    assert read(*pieces) == read(b"".join(pieces))


@pytest.mark.parametrize(
    "line", [b"x" * 50, b"data: " + b"x" * 20 + b"\n", b"data:\n"], ids=["endless", "long", "empty"]
)
def test_an_event_without_an_end_is_refused(line: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 1000)
    reader = EventStreamReader()
    with pytest.raises(EngineError, match="more than 1000 bytes"):
        for _ in range(1000):
            assert list(reader.feed(line)) == []


def test_many_events_in_one_chunk_are_not_one_large_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 20)
    assert read(b"data: 12345678\n\n" * 100) == [b"12345678"] * 100


def test_a_long_line_in_small_pieces_is_not_copied_for_each() -> None:
    """Else one event of the allowed size, sent byte by byte, would stall the loop."""
    reader = EventStreamReader()
    list(reader.feed(b"data: "))
    held = set()
    for _ in range(500):
        assert list(reader.feed(b"x")) == []
        held.add(max(len(piece) for piece in reader._rest))
    assert held == {6}
    assert list(reader.feed(b"\n\n")) == [b"x" * 500]

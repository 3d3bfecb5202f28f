"""Frames of an event stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchd.http1.sse import encode_comment, encode_event


def test_an_event() -> None:
    assert encode_event(7, b"token", b'{"t":"a"}') == b'id: 7\nevent: token\ndata: {"t":"a"}\n\n'


def test_a_comment() -> None:
    assert encode_comment("waiting in the queue") == b": waiting in the queue\n\n"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_comment_is_one_line_whatever_it_says(text: str) -> None:
    frame = encode_comment(text)
    assert frame.startswith(b": ") and frame.endswith(b"\n\n")
    assert b"\n" not in frame[:-2] and b"\r" not in frame

"""The head of a reply: what is added to it, and what must not be."""

from __future__ import annotations

from typing import cast

import pytest

from orchd.http1.messages import Response, Source, StreamedResponse
from orchd.http1.outgoing import build_head

DATE = b"Mon, 23 Nov 2026 12:00:00 GMT"


@pytest.mark.parametrize(
    ("reply", "is_last", "added"),
    [
        (Response(200, b"four"), False, [(b"content-length", b"4")]),
        (Response(404), False, [(b"content-length", b"0")]),
        (Response(204), False, []),
        (Response(200, b"four"), True, [(b"connection", b"close"), (b"content-length", b"4")]),
        (StreamedResponse(cast(Source, None)), False, []),
        (StreamedResponse(cast(Source, None)), True, [(b"connection", b"close")]),
    ],
    ids=["body", "empty", "no content", "last", "stream", "last stream"],
)
def test_length_and_close_are_added_where_they_apply(
    reply: Response | StreamedResponse, is_last: bool, added: list[tuple[bytes, bytes]]
) -> None:
    head = build_head(reply, DATE, is_last=is_last)
    assert list(head.headers) == [(b"date", DATE), *added]


def test_the_replys_own_headers_come_first_and_the_reason_is_said() -> None:
    head = build_head(Response(429, b"x", ((b"retry-after", b"7"),)), DATE, is_last=False)
    assert next(iter(head.headers)) == (b"retry-after", b"7")
    assert (head.status_code, head.reason) == (429, b"Too Many Requests")

"""Builds the head of a reply, as h11 sends it (RFC 9110, sections 6.6.1 and 8.6)."""

from __future__ import annotations

from http import HTTPStatus

import h11

from orchd.http1.messages import Response, StreamedResponse

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


def build_head(reply: Response | StreamedResponse, date: bytes, *, is_last: bool) -> h11.Response:
    """The reply's head; ``is_last`` says that the connection is closed behind it."""
    headers = [*reply.headers, (b"date", date)]
    if is_last:
        headers.append((b"connection", b"close"))
    if isinstance(reply, Response) and reply.status != HTTPStatus.NO_CONTENT:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    return h11.Response(status_code=reply.status, headers=headers, reason=_REASONS[reply.status])

"""The bytes of a reply: its head, and the frames of a body that comes bit by bit.

Sources: RFC 9112, sections 4, 6 and 7.1; RFC 9110, sections 6.6.1 (Date) and 8.6 (Content-Length).
"""

from __future__ import annotations

from http import HTTPStatus

from orchd.http1.messages import Response, StreamedResponse

_STATUS_LINES = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}
_BODILESS = HTTPStatus.NO_CONTENT

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
"""A body is wanted, or its reply is still under way (RFC 9110, section 15.2)."""
LAST_CHUNK = b"0\r\n\r\n"


def build_head(
    reply: Response | StreamedResponse, date: bytes, *, is_last: bool, is_chunked: bool = False
) -> bytes:
    """The reply's head, its empty line included; ``is_last`` says that the connection is closed
    behind it, which also ends a stream that is not chunked."""
    headers = [*reply.headers, (b"date", date)]
    if is_last:
        headers.append((b"connection", b"close"))
    if is_chunked:
        headers.append((b"transfer-encoding", b"chunked"))
    if isinstance(reply, Response) and reply.status != _BODILESS:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    fields = b"".join([b"%s: %s\r\n" % field for field in headers])
    breaks = fields.count(b"\r"), fields.count(b"\n")
    assert breaks == (len(headers),) * 2, "a line break in a header field"
    return b"%s%s\r\n" % (_STATUS_LINES[reply.status], fields)


def frame_chunk(data: bytes) -> bytes:
    """One chunk; nothing where there is nothing, since an empty chunk would be the last."""
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""

"""Judges a request by the rules that h11 leaves to us or takes lightly (RFC 9110 and 9112).

What two readers of the same bytes could understand differently is refused, never mended: that is
what request smuggling lives on.

Invariant: no message holds more than a bounded piece of what the client sent.
"""

from __future__ import annotations

import re

import h11

from orchd.errors import ClientError, Code
from orchd.http1.deadlines import Phase
from orchd.http1.limits import Limits
from orchd.http1.messages import Head

_CONTROL = rb"\x00-\x08\x0a-\x1f\x7f"
_RAW_HEAD = re.compile(rb"(?:[^ \t%b][^%b]*\r\n)+\r\n" % (_CONTROL, _CONTROL))
"""Lines that end in CR LF, none empty or folded, without control characters except the tab."""
_BARE_LF = re.compile(rb"(?<!\r)\n")
_WHY = (
    # RFC 9110, section 5.5; h11 refuses NUL alone.
    (re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"), "a control character"),
    # RFC 9112, section 2.2; h11 takes a bare LF for a line's end.
    (re.compile(rb"(?<!\r)\n|\r(?!\n)"), "a line that does not end in CR LF"),
    # RFC 9112, section 5.2; h11 unfolds it.
    (re.compile(rb"\n[ \t]"), "a folded header line"),
)
_HOPELESS = (_WHY[0], (_BARE_LF, _WHY[1][1]))
"""What shows in a part of a head already; a CR at its end may yet be followed by its LF."""

_ABSOLUTE = re.compile("https?://[^/?]+", re.IGNORECASE)
_ESCAPED = re.compile("[^%#]*(?:%[0-9A-Fa-f]{2}[^%#]*)*")
_VERSION = re.compile(rb"1\.[0-9]")
_HOST = re.compile(rb"(?:\[[0-9a-z:.%_~-]+\]|[0-9a-z._~!$&'()*+,;=%-]*)(?::[0-9]*)?", re.IGNORECASE)
_CODINGS = re.compile(rb"^transfer-encoding:([^\r]*)", re.IGNORECASE | re.MULTILINE)


# -- the raw head --------------------------------------------------------------------------------


def check_part(part: bytearray, start: int, limits: Limits) -> None:
    """Raises ClientError where a head cannot become good any more; looked at from ``start`` on.

    Else whoever speaks something else (TLS, a script with bare line feeds) had to wait for its
    answer until the time for a head is over.
    """
    for pattern, what in _HOPELESS:
        if pattern.search(part, start):
            raise malformed(what)
    if len(part) > limits.head_bytes:
        raise _head_too_large(part, limits)


def check_raw_head(raw: bytes, limits: Limits) -> None:
    """Raises ClientError where a whole head, its empty line included, is not taken as it stands."""
    if len(raw) > limits.head_bytes:
        raise _head_too_large(raw, limits)
    if not _RAW_HEAD.fullmatch(raw):
        reasons = (what for pattern, what in _WHY if pattern.search(raw))
        raise malformed(next(reasons, "illegal request line"))
    # The request line and the empty line are no fields.
    if raw.count(b"\n") - 2 > limits.max_headers:
        message = f"the head has more than {limits.max_headers} header fields"
        raise ClientError(Code.HEADERS_TOO_LARGE, message)


def _head_too_large(raw: bytes | bytearray, limits: Limits) -> ClientError:
    if raw.find(b"\r\n", 0, limits.head_bytes) < 0:
        message = f"the request line is larger than {limits.head_bytes} bytes"
        return ClientError(Code.URI_TOO_LONG, message)
    message = f"the head is larger than {limits.head_bytes} bytes"
    return ClientError(Code.HEADERS_TOO_LARGE, message)


def explain(error: h11.RemoteProtocolError, raw: bytes) -> ClientError:
    """What h11 has against this raw head, as the client's error."""
    if error.error_status_hint == 501:
        return _judge_codings(raw)
    # h11 shows the whole line, as a bytearray.
    return malformed(str(error).partition(": bytearray(")[0])


def _judge_codings(raw: bytes) -> ClientError:
    """A body whose end cannot be known is malformed, another coding under the chunks is not."""
    codings = [name.strip().lower() for name in b",".join(_CODINGS.findall(raw)).split(b",")]
    # RFC 9112, sections 6.1 and 6.3.
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        return malformed("Transfer-Encoding is not chunked once, at its end")
    message = "no transfer coding but chunked is understood here"
    return ClientError(Code.NOT_IMPLEMENTED, message)


def malformed(what: str) -> ClientError:
    """What breaks HTTP is answered with."""
    return ClientError(Code.INVALID_PARAMS, f"not HTTP/1.1: {what}")


# -- the head as h11 read it ---------------------------------------------------------------------


def read_head(event: h11.Request, peer: str = "") -> Head:
    """The head as it came, not judged yet."""
    path, query = _split_target(event.target.decode("ascii"))
    headers = tuple([(name.lower(), value) for name, value in event.headers.raw_items()])
    return Head(event.method.decode("ascii"), path, query, headers, peer, event.http_version)


def check_head(head: Head, event: h11.Request) -> None:
    """Raises ClientError where the head breaks a rule, whatever it asks for.

    An expectation that nobody knows is no such rule: 417 may be answered, and need not be (RFC
    9110, section 10.1.1).
    """
    version = head.version
    if not _VERSION.fullmatch(version):
        spoken = f"HTTP/{version.decode('ascii')} is not spoken here, 1.1 is"
        raise ClientError(Code.HTTP_VERSION_NOT_SUPPORTED, spoken)
    hosts = head.values(b"host")
    # h11 asks for it in 1.1 only, but a higher minor version is 1.1 (RFC 9110, section 2.5).
    if version > b"1.1" and not hosts:
        raise malformed("Missing mandatory Host: header")
    if not all(map(_HOST.fullmatch, hosts)):
        raise malformed("Host is not a host and its port")
    if head.is_chunked:
        # Two hops that each believe the other one are request smuggling (RFC 9112, section 6.1).
        if head.length_bytes is not None:
            raise malformed("both Transfer-Encoding and Content-Length")
        if version < b"1.1":
            raise malformed("Transfer-Encoding in HTTP/1.0")
    _check_target(head.method, event.target.decode("ascii"))


def _check_target(method: str, target: str) -> None:
    """The forms of RFC 9112, section 3.2; only what is a resource of ours goes on to the routes."""
    if method == "CONNECT":
        raise ClientError(Code.NOT_IMPLEMENTED, "CONNECT asks for a tunnel, this is no proxy")
    if target == "*":
        if method != "OPTIONS":
            raise malformed("the target * is for OPTIONS alone")
    elif not target.startswith("/") and not _ABSOLUTE.match(target):
        raise malformed("the target is neither a path nor an http URL")
    elif not _ESCAPED.fullmatch(target):
        raise malformed("the target has a fragment or a % that escapes nothing")


def check_length(head: Head, limits: Limits) -> None:
    """Raises ClientError where the head announces more body than is taken."""
    if (head.length_bytes or 0) > limits.body_bytes:
        raise too_large(limits)


def is_last(head: Head) -> bool:
    """True where no request may follow on the connection (RFC 9112, section 9.3)."""
    return head.version < b"1.1" or _has_option(head, b"connection", b"close")


def awaits_continue(head: Head) -> bool:
    """True if the client may wait for a word before it sends its body (RFC 9110, 10.1.1)."""
    return head.version >= b"1.1" and _has_option(head, b"expect", b"100-continue")


def _has_option(head: Head, name: bytes, option: bytes) -> bool:
    values = head.values(name)
    return bool(values) and any(
        option == part.strip().lower() for part in b",".join(values).split(b",")
    )


def _split_target(target: str) -> tuple[str, str]:
    """Path and query; the absolute form, meant for proxies, counts (RFC 9112, section 3.2.2)."""
    origin = None if target.startswith("/") else _ABSOLUTE.match(target)
    path, _, query = target[origin.end() if origin else 0 :].partition("?")
    return path or "/", query


# -- what came too much or too late --------------------------------------------------------------


def too_large(limits: Limits) -> ClientError:
    """What a body beyond the limit is answered with."""
    message = f"the body is larger than {limits.body_bytes} bytes"
    return ClientError(Code.PAYLOAD_TOO_LARGE, message)


def too_slow(phase: Phase, limits: Limits) -> ClientError:
    """What a head or a body that does not come to its end is answered with."""
    what, longest_s = "head", limits.head_timeout_s
    if phase is Phase.BODY:
        what, longest_s = "body", limits.body_timeout_s
    message = f"the request's {what} took longer than {longest_s:g} s to come"
    return ClientError(Code.REQUEST_TIMEOUT, message)


def too_many(limits: Limits) -> ClientError:
    """What a connection beyond the most that are served is answered with."""
    message = f"{limits.max_connections} connections are open, which is the most; try again soon"
    return ClientError(Code.POOL_UNAVAILABLE, message)

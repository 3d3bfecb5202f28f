"""Judges what h11 has read by the rules that it leaves to us (RFC 9110 and 9112).

Invariant: no message holds more than a bounded piece of what the client sent.
"""

from __future__ import annotations

import re

import h11

from orchd.errors import ClientError, Code
from orchd.http1.limits import Limits
from orchd.http1.messages import Head

_ORIGIN = re.compile("https?://[^/?]*", re.IGNORECASE)
_VERSION = re.compile(rb"1\.[0-9]")


def read_head(event: h11.Request) -> Head:
    """The head as it came, not judged yet."""
    path, query = _split_target(event.target.decode("ascii"))
    headers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    return Head(event.method.decode("ascii"), path, query, headers)


def check_head(head: Head, version: bytes) -> None:
    """Raises ClientError where the head breaks a rule, whatever it asks for."""
    if not _VERSION.fullmatch(version):
        spoken = f"HTTP/{version.decode('ascii')} is not spoken here, 1.1 is"
        raise ClientError(Code.HTTP_VERSION_NOT_SUPPORTED, spoken)
    # h11 asks for it in 1.1 only, but a higher minor version is 1.1 (RFC 9110, section 2.5).
    if version > b"1.1" and len(head.values(b"host")) != 1:
        raise ClientError(Code.INVALID_PARAMS, "not HTTP/1.1: Missing mandatory Host: header")
    # Two hops that each believe the other one are request smuggling (RFC 9112, section 6.1).
    if head.values(b"transfer-encoding") and head.values(b"content-length"):
        both = "not HTTP/1.1: both Transfer-Encoding and Content-Length"
        raise ClientError(Code.INVALID_PARAMS, both)


def check_length(head: Head, limits: Limits) -> None:
    """Raises ClientError where the head announces more body than is taken."""
    if _announced_bytes(head) > limits.body_bytes:
        raise too_large(limits)


def announces_body(head: Head) -> bool:
    """True if there is a body to come."""
    return bool(head.values(b"transfer-encoding")) or _announced_bytes(head) > 0


def too_large(limits: Limits) -> ClientError:
    """What a body beyond the limit is answered with."""
    message = f"the body is larger than {limits.body_bytes} bytes"
    return ClientError(Code.PAYLOAD_TOO_LARGE, message)


def explain(error: h11.RemoteProtocolError, torn: bytes | None, limits: Limits) -> ClientError:
    """What h11 refused, as the client's error; ``torn`` is as much as there is of a torn head."""
    match error.error_status_hint:
        case 431 if torn is not None and b"\n" not in torn:
            message = f"the request line is larger than {limits.head_bytes} bytes"
            return ClientError(Code.URI_TOO_LONG, message)
        case 431 if torn is not None:
            message = f"the headers are larger than {limits.head_bytes} bytes"
            return ClientError(Code.HEADERS_TOO_LARGE, message)
        case 501:
            code = Code.NOT_IMPLEMENTED
        case _:
            code = Code.INVALID_PARAMS
    # h11 shows the whole line, as a bytearray.
    return ClientError(code, f"not HTTP/1.1: {str(error).partition(': bytearray(')[0]}")


def _announced_bytes(head: Head) -> int:
    # h11 let digits through only, at most 20, and made equal lengths one.
    return int(head.value(b"content-length") or b"0")


def _split_target(target: str) -> tuple[str, str]:
    """Path and query; the absolute form, meant for proxies, counts (RFC 9112, section 3.2.2)."""
    origin = _ORIGIN.match(target)
    path, _, query = target[origin.end() if origin else 0 :].partition("?")
    return path or "/", query

"""The rules of HTTP that h11 leaves to its user."""

from __future__ import annotations

import h11
import pytest

from orchd.errors import ClientError, Code
from orchd.http1 import intake
from orchd.http1.limits import Limits
from orchd.http1.messages import Head, Headers

LIMITS = Limits(head_bytes=100, body_bytes=10)
HOST = (b"host", b"a")


def head(*headers: tuple[bytes, bytes]) -> Head:
    return Head("POST", "/", "", headers)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b", "/a/b", ""),
        (b"/a?b=c?d", "/a", "b=c?d"),
        (b"/a%2fb", "/a%2fb", ""),
        (b"http://host:1/a?b", "/a", "b"),
        (b"HTTPS://u:p@[::1]:1/a", "/a", ""),
        (b"http://host", "/", ""),
        (b"http://host?b", "/", "b"),
        (b"/http://host/a", "/http://host/a", ""),
        (b"ftp://host/a", "ftp://host/a", ""),
        (b"*", "*", ""),
        (b"host:443", "host:443", ""),
        (b"//host/a", "//host/a", ""),
    ],
)
def test_the_target_in_each_of_its_forms(target: bytes, path: str, query: str) -> None:
    read = intake.read_head(h11.Request(method="GET", target=target, headers=[HOST]))
    assert (read.method, read.path, read.query) == ("GET", path, query)
    assert read.headers == (HOST,)


@pytest.mark.parametrize("version", [b"1.0", b"1.1", b"1.2", b"1.9"])
def test_any_minor_version_of_1_is_taken(version: bytes) -> None:
    intake.check_head(head(HOST), version)


@pytest.mark.parametrize("version", [b"0.9", b"2.0", b"3.0"])
def test_another_major_version_is_not(version: bytes) -> None:
    with pytest.raises(ClientError, match=rf"HTTP/{version.decode()} is not spoken") as caught:
        intake.check_head(head(HOST), version)
    assert caught.value.code is Code.HTTP_VERSION_NOT_SUPPORTED


@pytest.mark.parametrize("headers", [(), (HOST, HOST)])
def test_a_version_above_1_1_names_one_host_too(headers: Headers) -> None:
    with pytest.raises(ClientError, match="Host"):
        intake.check_head(head(*headers), b"1.2")
    intake.check_head(head(), b"1.0")


def test_both_lengths_are_refused() -> None:
    with pytest.raises(ClientError, match="both") as caught:
        intake.check_head(
            head(HOST, (b"transfer-encoding", b"chunked"), (b"content-length", b"0")), b"1.1"
        )
    assert caught.value.code is Code.INVALID_PARAMS


@pytest.mark.parametrize(
    ("headers", "is_announced"),
    [
        ((), False),
        (((b"content-length", b"0"),), False),
        (((b"content-length", b"1"),), True),
        (((b"transfer-encoding", b"chunked"),), True),
    ],
)
def test_a_body_is_announced_by_its_length(headers: Headers, is_announced: bool) -> None:
    assert intake.announces_body(head(*headers)) is is_announced


def test_the_announced_length_is_limited() -> None:
    intake.check_length(head((b"content-length", b"10")), LIMITS)
    intake.check_length(head((b"transfer-encoding", b"chunked")), LIMITS)
    for length in (b"11", b"9" * 20):
        with pytest.raises(ClientError, match="larger than 10 bytes") as caught:
            intake.check_length(head((b"content-length", length)), LIMITS)
        assert caught.value.code is Code.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize(
    ("hint", "torn", "code", "message"),
    [
        (400, b"", Code.INVALID_PARAMS, "not HTTP/1.1: odd"),
        (501, b"", Code.NOT_IMPLEMENTED, "not HTTP/1.1: odd"),
        (431, b"GET /aaa", Code.URI_TOO_LONG, "the request line is larger than 100 bytes"),
        (431, b"GET /\r\na", Code.HEADERS_TOO_LARGE, "the headers are larger than 100 bytes"),
        (431, None, Code.INVALID_PARAMS, "not HTTP/1.1: odd"),
    ],
)
def test_what_h11_refuses(hint: int, torn: bytes | None, code: Code, message: str) -> None:
    error = intake.explain(h11.RemoteProtocolError("odd", error_status_hint=hint), torn, LIMITS)
    assert (error.code, str(error)) == (code, message)


def test_a_long_line_is_not_said_back() -> None:
    line = bytearray(b"\x01" * 1000)
    error = h11.RemoteProtocolError(f"illegal request line: {line!r}")
    assert str(intake.explain(error, b"", LIMITS)) == "not HTTP/1.1: illegal request line"

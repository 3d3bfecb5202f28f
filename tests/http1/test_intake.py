"""The rules of HTTP that h11 leaves to its user."""

from __future__ import annotations

from typing import Any

import h11
import pytest

from orchd.errors import ClientError, Code
from orchd.http1 import intake
from orchd.http1.deadlines import Phase
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
        (b"//host/a", "//host/a", ""),
    ],
)
def test_the_target_in_each_of_its_forms(target: bytes, path: str, query: str) -> None:
    read = intake.read_head(h11.Request(method="GET", target=target, headers=[HOST]))
    assert (read.method, read.path, read.query) == ("GET", path, query)
    assert read.headers == (HOST,)


def judge(
    method: str = "GET", target: str = "/", version: str = "1.1", headers: Headers = (HOST,)
) -> None:
    event = h11.Request(
        method=method.encode(),
        target=target.encode(),
        headers=list(headers),
        http_version=version.encode(),
    )
    intake.check_head(intake.read_head(event), event)


def refusal_of(**asked: Any) -> str:
    with pytest.raises(ClientError) as caught:
        judge(**asked)
    assert caught.value.code is Code.INVALID_PARAMS
    return str(caught.value)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.9"])
def test_any_minor_version_of_1_is_taken(version: str) -> None:
    judge(version=version)


@pytest.mark.parametrize("version", ["0.9", "2.0", "3.0"])
def test_another_major_version_is_not(version: str) -> None:
    with pytest.raises(ClientError, match=rf"HTTP/{version} is not spoken") as caught:
        judge(version=version)
    assert caught.value.code is Code.HTTP_VERSION_NOT_SUPPORTED


def test_a_version_above_1_1_names_a_host_too() -> None:
    assert "Missing mandatory Host" in refusal_of(version="1.2", headers=())
    judge(version="1.0", headers=())


@pytest.mark.parametrize(
    "host", [b"", b"a", b"a:1", b"a-b.c_d:65535", b"[::1]", b"[::1]:80", b"%61"]
)
def test_a_host_and_its_port(host: bytes) -> None:
    judge(headers=((b"host", host),))


@pytest.mark.parametrize(
    "host", [b"a b", b"a, b", b"a/b", b"u@a", b"a:b", b"a:1:2", b"::1", b"[::1", b"\xe4"]
)
def test_what_is_no_host(host: bytes) -> None:
    assert "Host is not a host" in refusal_of(headers=((b"host", host),))


def test_both_lengths_are_refused() -> None:
    both = ((b"transfer-encoding", b"chunked"), (b"content-length", b"0"))
    assert "both" in refusal_of(headers=(HOST, *both))


def test_chunks_are_not_of_http_1_0() -> None:
    chunked = (b"transfer-encoding", b"chunked")
    assert "in HTTP/1.0" in refusal_of(version="1.0", headers=(chunked,))


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/%41%2f%ff"),
        ("GET", "/?%20"),
        ("GET", '/{}|^"<>'),
        ("GET", "http://a"),
        ("GET", "https://a/b"),
        ("OPTIONS", "*"),
        ("OPTIONS", "/"),
    ],
)
def test_targets_that_are_taken(method: str, target: str) -> None:
    judge(method, target)


@pytest.mark.parametrize(
    ("method", "target", "why"),
    [
        ("GET", "*", "the target * is for OPTIONS"),
        ("POST", "*", "the target * is for OPTIONS"),
        ("GET", "health", "neither a path nor an http URL"),
        ("GET", "?a", "neither a path nor an http URL"),
        ("GET", "a:443", "neither a path nor an http URL"),
        ("GET", "ftp://a/b", "neither a path nor an http URL"),
        ("GET", "http:///a", "neither a path nor an http URL"),
        ("GET", "/a#b", "a fragment or a %"),
        ("GET", "http://a/b#c", "a fragment or a %"),
        ("GET", "/%", "a fragment or a %"),
        ("GET", "/%4", "a fragment or a %"),
        ("GET", "/%zz", "a fragment or a %"),
        ("GET", "/?%g0", "a fragment or a %"),
    ],
)
def test_targets_that_are_none(method: str, target: str, why: str) -> None:
    assert why in refusal_of(method=method, target=target)


def test_there_is_no_tunnel() -> None:
    with pytest.raises(ClientError) as caught:
        judge("CONNECT", "a:443")
    assert caught.value.code is Code.NOT_IMPLEMENTED


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
    assert head(*headers).has_body is is_announced


def test_the_announced_length_is_limited() -> None:
    intake.check_length(head((b"content-length", b"10")), LIMITS)
    intake.check_length(head((b"transfer-encoding", b"chunked")), LIMITS)
    for length in (b"11", b"9" * 20):
        with pytest.raises(ClientError, match="larger than 10 bytes") as caught:
            intake.check_length(head((b"content-length", length)), LIMITS)
        assert caught.value.code is Code.PAYLOAD_TOO_LARGE


# -- the raw head --------------------------------------------------------------------------------

GOOD = b"GET / HTTP/1.1\r\nHost: a\r\nX:\ty\r\n\r\n"


def raw_refusal(raw: bytes, limits: Limits = LIMITS) -> tuple[Code, str]:
    with pytest.raises(ClientError) as caught:
        intake.check_raw_head(raw, limits)
    return caught.value.code, str(caught.value)


def test_a_good_head_and_every_part_of_it() -> None:
    intake.check_raw_head(GOOD, LIMITS)
    for end in range(len(GOOD)):
        for start in range(end):
            intake.check_part(bytearray(GOOD[:end]), start, LIMITS)


def test_what_was_looked_at_is_not_looked_at_again() -> None:
    intake.check_part(bytearray(b"GET\x00\n/"), 5, LIMITS)


@pytest.mark.parametrize("byte", [*range(9), *range(11, 13), *range(14, 32), 127])
def test_no_control_character_anywhere(byte: int) -> None:
    for at in range(1, len(GOOD) - 4):
        raw = GOOD[:at] + bytes([byte]) + GOOD[at:]
        assert raw_refusal(raw) == (Code.INVALID_PARAMS, "not HTTP/1.1: a control character")
        with pytest.raises(ClientError, match="a control character"):
            intake.check_part(bytearray(raw[: at + 1]), at, LIMITS)


@pytest.mark.parametrize("at", [at for at, byte in enumerate(GOOD[:-4]) if byte == ord("\n")])
def test_a_line_ends_in_cr_lf(at: int) -> None:
    bare_lf, bare_cr = GOOD[: at - 1] + GOOD[at:], GOOD[:at] + GOOD[at + 1 :]
    for raw in (bare_lf, bare_cr):
        why = "not HTTP/1.1: a line that does not end in CR LF"
        assert raw_refusal(raw) == (Code.INVALID_PARAMS, why)
    with pytest.raises(ClientError, match="CR LF"):
        intake.check_part(bytearray(bare_lf[:at]), at - 1, LIMITS)


@pytest.mark.parametrize("space", [b" ", b"\t"])
def test_no_line_is_folded(space: bytes) -> None:
    folded = GOOD.replace(b"X:", space + b"X:")
    assert raw_refusal(folded) == (Code.INVALID_PARAMS, "not HTTP/1.1: a folded header line")
    assert raw_refusal(space + GOOD)[1] == "not HTTP/1.1: illegal request line"


def test_a_head_has_a_size() -> None:
    raw = b"GET / HTTP/1.1\r\nX: %b\r\n\r\n" % (b"x" * 77)
    assert len(raw) == LIMITS.head_bytes
    intake.check_raw_head(raw, LIMITS)
    longer = raw.replace(b"X", b"XX")
    too_large = (Code.HEADERS_TOO_LARGE, "the head is larger than 100 bytes")
    assert raw_refusal(longer) == too_large
    with pytest.raises(ClientError, match="the head is larger"):
        intake.check_part(bytearray(longer), 0, LIMITS)
    code, why = raw_refusal(b"GET /%b HTTP/1.1\r\n\r\n" % (b"x" * 100))
    assert (code, why) == (Code.URI_TOO_LONG, "the request line is larger than 100 bytes")


def test_a_head_has_so_many_fields() -> None:
    limits = Limits(max_headers=3)
    intake.check_raw_head(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 3 + b"\r\n", limits)
    code, why = raw_refusal(b"GET / HTTP/1.1\r\n" + b"a:\r\n" * 4 + b"\r\n", limits)
    assert (code, why) == (Code.HEADERS_TOO_LARGE, "the head has more than 3 header fields")


@pytest.mark.parametrize(
    ("codings", "code"),
    [
        ([b"gzip, chunked"], Code.NOT_IMPLEMENTED),
        ([b"gzip", b"chunked"], Code.NOT_IMPLEMENTED),
        ([b"Identity,\tCHUNKED "], Code.NOT_IMPLEMENTED),
        ([b"identity"], Code.INVALID_PARAMS),
        ([b"chunked, identity"], Code.INVALID_PARAMS),
        ([b"chunked", b"gzip"], Code.INVALID_PARAMS),
        ([b"chunked, chunked"], Code.INVALID_PARAMS),
        ([b"chunked", b"chunked"], Code.INVALID_PARAMS),
        ([b"xchunked"], Code.INVALID_PARAMS),
        ([b'"chunked"'], Code.INVALID_PARAMS),
        ([b""], Code.INVALID_PARAMS),
    ],
)
def test_a_coding_that_h11_does_not_know(codings: list[bytes], code: Code) -> None:
    fields = b"".join(b"Transfer-Encoding: %b\r\n" % coding for coding in codings)
    raw = b"POST / HTTP/1.1\r\nHost: a\r\n%b\r\n" % fields
    error = h11.RemoteProtocolError("odd", error_status_hint=501)
    assert intake.explain(error, raw).code is code


def test_a_long_line_is_not_said_back() -> None:
    line = bytearray(b"\x01" * 1000)
    error = h11.RemoteProtocolError(f"illegal request line: {line!r}")
    explained = intake.explain(error, b"")
    assert (explained.code, str(explained)) == (
        Code.INVALID_PARAMS,
        "not HTTP/1.1: illegal request line",
    )


@pytest.mark.parametrize(("phase", "what"), [(Phase.HEAD, "head"), (Phase.BODY, "body")])
def test_what_is_too_slow_is_named(phase: Phase, what: str) -> None:
    error = intake.too_slow(phase, Limits(head_timeout_s=2, body_timeout_s=2))
    assert error.code is Code.REQUEST_TIMEOUT
    assert str(error) == f"the request's {what} took longer than 2 s to come"

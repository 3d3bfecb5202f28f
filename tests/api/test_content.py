"""What a request says of its body, before that is read."""

from __future__ import annotations

import pytest

from orchd.api.content import find_fault
from orchd.http1.messages import Head
from orchd.http1.router import Body

LENGTH = (b"content-length", b"9")


def judge(*headers: tuple[bytes, bytes], body: Body = Body.NEEDED) -> int | None:
    fault = find_fault(Head("POST", "/", "", headers), body)
    return None if fault is None else fault.status


def judge_type(*types: bytes) -> int | None:
    return judge(LENGTH, *((b"content-type", text) for text in types))


def test_a_length_is_needed_where_a_body_is() -> None:
    assert judge() == 411
    assert judge(body=Body.UNUSED) is judge(body=Body.OPTIONAL) is None
    for header in (LENGTH, (b"content-length", b"0"), (b"transfer-encoding", b"chunked")):
        assert judge(header) is None


@pytest.mark.parametrize(
    "text",
    [
        b"application/json",
        b"Application/JSON",
        b"application/json;charset=utf-8",
        b'application/json ; charset="UTF-8"',
        b"application/json; charset=utf8; x=y",
        b"application/json; profile=a/b",
        b"application/json;",
        b"application/vnd.orchd.task+json",
        b"text/x+json;charset=utf-8",
        b"application/x-www-form-urlencoded",
        b"text/plain;charset=UTF-8",
    ],
)
def test_json_by_any_of_its_names(text: bytes) -> None:
    assert judge_type(text) is None


@pytest.mark.parametrize(
    "text",
    [
        b"multipart/form-data; boundary=x",
        b"text/xml",
        b"text/plain;charset=latin1",
        b"text/html",
        b"application/jsonx",
        b"application/octet-stream",
        b"application/json; charset=latin1",
        b"application/json; charset=utf-16",
        b"application/json; charset =latin1",
        b"application/json; charset=utf-8; charset=latin1",
        b'application/json; charset="utf-8',
        b"application/xml+jsonx",
        b"application/json, text/xml",
        b"json",
        b"+json",
        b"",
        b"\xff",
    ],
)
def test_what_is_plainly_no_json(text: bytes) -> None:
    assert judge_type(text) == 415


def test_two_types_are_none() -> None:
    assert judge_type(b"application/json", b"application/json") == 415


XML = (b"content-type", b"text/xml")


def test_the_type_is_not_asked_for_where_nothing_is_read() -> None:
    assert judge(LENGTH, XML, body=Body.UNUSED) is None
    assert judge(XML, body=Body.UNUSED) is None


@pytest.mark.parametrize(
    ("framing", "status"),
    [
        ((), None),
        (((b"content-length", b"0"),), None),
        (((b"content-length", b"1"),), 415),
        # It may prove to be empty, which nobody can know yet.
        (((b"transfer-encoding", b"chunked"),), 415),
    ],
)
def test_a_body_that_is_optional_has_a_type_once_it_is_announced(
    framing: tuple[tuple[bytes, bytes], ...], status: int | None
) -> None:
    assert judge(*framing, XML, body=Body.OPTIONAL) == status
    assert judge(*framing, body=Body.OPTIONAL) is None
    assert judge(*framing, (b"content-type", b"text/plain"), body=Body.OPTIONAL) is None


@pytest.mark.parametrize("coding", [b"", b"identity", b"Identity", b"identity, identity"])
def test_a_plain_body(coding: bytes) -> None:
    assert judge(LENGTH, (b"content-encoding", coding)) is None


@pytest.mark.parametrize("coding", [b"gzip", b"identity, br", b"x"])
@pytest.mark.parametrize("body", Body)
def test_a_coded_body_is_not_read_anywhere(coding: bytes, body: Body) -> None:
    assert judge(LENGTH, (b"content-encoding", coding), body=body) == 415
    # Without a body there is nothing to decode.
    if body is not Body.NEEDED:
        assert judge((b"content-encoding", coding), body=body) is None


def test_a_refusal_says_what_would_do() -> None:
    for header, name, value in (
        ((b"content-encoding", b"gzip"), b"accept-encoding", b"identity"),
        ((b"content-type", b"text/xml"), b"accept", b"application/json"),
    ):
        fault = find_fault(Head("POST", "/", "", (LENGTH, header)), Body.NEEDED)
        assert fault is not None and dict(fault.headers)[name] == value

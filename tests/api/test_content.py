"""What a request says of its body, before that is read."""

from __future__ import annotations

import pytest

from orchd.api.content import find_fault
from orchd.http1.messages import Head

LENGTH = (b"content-length", b"9")


def judge(*headers: tuple[bytes, bytes], needs_body: bool = True) -> int | None:
    fault = find_fault(Head("POST", "/", "", headers), needs_body=needs_body)
    return None if fault is None else fault.status


def judge_type(*types: bytes) -> int | None:
    return judge(LENGTH, *((b"content-type", text) for text in types))


def test_a_length_is_needed_where_a_body_is() -> None:
    assert judge() == 411
    assert judge(needs_body=False) is None
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


def test_the_type_is_asked_for_only_where_a_body_is_needed() -> None:
    xml = (b"content-type", b"text/xml")
    assert judge(LENGTH, xml, needs_body=False) is None
    assert judge(xml, needs_body=False) is None


@pytest.mark.parametrize("coding", [b"", b"identity", b"Identity", b"identity, identity"])
def test_a_plain_body(coding: bytes) -> None:
    assert judge(LENGTH, (b"content-encoding", coding)) is None


@pytest.mark.parametrize("coding", [b"gzip", b"identity, br", b"x"])
@pytest.mark.parametrize("needs_body", [True, False])
def test_a_coded_body_is_not_read_anywhere(coding: bytes, needs_body: bool) -> None:
    assert judge(LENGTH, (b"content-encoding", coding), needs_body=needs_body) == 415
    # Without a body there is nothing to decode.
    assert judge((b"content-encoding", coding), needs_body=False) is None


def test_a_refusal_says_what_would_do() -> None:
    for header, name, value in (
        ((b"content-encoding", b"gzip"), b"accept-encoding", b"identity"),
        ((b"content-type", b"text/xml"), b"accept", b"application/json"),
    ):
        fault = find_fault(Head("POST", "/", "", (LENGTH, header)), needs_body=True)
        assert fault is not None and dict(fault.headers)[name] == value

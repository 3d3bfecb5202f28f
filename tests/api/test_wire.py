"""Domain to JSON, code to status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchd.api import wire
from orchd.errors import Code
from orchd.serving.task import Admitted, Ended, Failed, Rejected, Started, TaskEvent, Token

ENVELOPE = ["code", "message", "engine"]

# The contract's own table, written out again on purpose.
STATUSES = {
    "INVALID_PARAMS": 400,
    "UNAUTHORIZED": 401,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "CONFLICT": 409,
    "LENGTH_REQUIRED": 411,
    "PAYLOAD_TOO_LARGE": 413,
    "URI_TOO_LONG": 414,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "ADMISSION_REJECT": 429,
    "HEADERS_TOO_LARGE": 431,
    "INTERNAL": 500,
    "NOT_IMPLEMENTED": 501,
    "POOL_UNAVAILABLE": 503,
    "RELOAD_FAILED": 503,
    "HTTP_VERSION_NOT_SUPPORTED": 505,
}
STREAM_ONLY = {Code.CANCELLED, Code.WORKER_RESET, Code.DECODE_TIMEOUT}


def test_every_code_has_the_status_of_the_contract() -> None:
    assert {code.value: int(status) for code, status in wire.STATUSES.items()} == STATUSES
    assert set(Code) - set(wire.STATUSES) == STREAM_ONLY


@pytest.mark.parametrize("code", wire.STATUSES)
def test_the_envelope_has_three_keys(code: Code) -> None:
    response = wire.error_response(code, "why", headers=((b"allow", b"GET"),))
    assert response.status == STATUSES[code]
    assert json.loads(response.body) == {"code": code.value, "message": "why", "engine": None}
    assert list(json.loads(response.body)) == ENVELOPE
    headers = dict(response.headers)
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"allow"] == b"GET"


def test_the_engine_is_told_where_it_is_known() -> None:
    body = wire.error_response(Code.NOT_FOUND, "why", "llamacpp").body
    assert json.loads(body)["engine"] == "llamacpp"


@pytest.mark.parametrize(
    ("code", "backoff_s", "expected"),
    [
        (Code.ADMISSION_REJECT, 0.0, {b"retry-after": b"1", b"x-backoff-ms": b"0"}),
        (Code.ADMISSION_REJECT, 0.0101, {b"retry-after": b"1", b"x-backoff-ms": b"11"}),
        (Code.ADMISSION_REJECT, 1.0, {b"retry-after": b"1", b"x-backoff-ms": b"1000"}),
        (Code.ADMISSION_REJECT, 1.001, {b"retry-after": b"2", b"x-backoff-ms": b"1001"}),
        (Code.POOL_UNAVAILABLE, 4.2, {b"retry-after": b"5"}),
        (Code.POOL_UNAVAILABLE, None, {}),
        (Code.CONFLICT, None, {}),
    ],
)
def test_a_rejection_says_when_to_come_back(
    code: Code, backoff_s: float | None, expected: dict[bytes, bytes]
) -> None:
    response = wire.rejected_response(Rejected(code, "full", "llamacpp", backoff_s))
    assert response.status == STATUSES[code]
    envelope = {"code": code.value, "message": "full", "engine": "llamacpp"}
    assert json.loads(response.body) == envelope
    headers = dict(response.headers)
    for name in (b"content-type", b"cache-control"):
        del headers[name]
    assert headers == expected


@pytest.mark.parametrize("start_ms", [None, 0, 420])
def test_an_admission_says_where_the_stream_is(start_ms: int | None) -> None:
    response = wire.admitted_response(Admitted("an-id", 3, start_ms, 70))
    assert response.status == 202
    assert dict(response.headers)[b"location"] == b"/v1/tasks/an-id/stream"
    assert json.loads(response.body) == {
        "task_id": "an-id",
        "queue_position": 3,
        "predicted_start_ms": start_ms,
        "backoff_ms": 70,
    }


EVENTS: list[tuple[TaskEvent, bytes]] = [
    (Started(3, 420), b'started\ndata: {"queue_position":3,"predicted_start_ms":420}'),
    (Started(0, None), b'started\ndata: {"queue_position":0,"predicted_start_ms":null}'),
    (Token("Hello", 0), b'token\ndata: {"t":"Hello","i":0}'),
    (
        Ended(5, 1, 23, "stop"),
        b'end\ndata: {"tokens_in":5,"tokens_out":1,"decode_ms":23,"finish_reason":"stop"}',
    ),
    (
        Ended(0, 1, 23, "stop", is_estimated=True),
        b'end\ndata: {"tokens_in":0,"tokens_out":1,"decode_ms":23,"finish_reason":"stop",'
        b'"estimated":true}',
    ),
    (
        Failed(Code.WORKER_RESET, "died", "llamacpp"),
        b'error\ndata: {"code":"WORKER_RESET","message":"died","engine":"llamacpp"}',
    ),
]


@pytest.mark.parametrize(("event", "expected"), EVENTS)
def test_an_event_on_the_wire(event: TaskEvent, expected: bytes) -> None:
    assert wire.encode_event(9, event) == b"id: 9\nevent: " + expected + b"\n\n"


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\r", "\u2028", "\x00", "data: x\n\nevent: y"])
def test_no_text_breaks_its_frame(text: str) -> None:
    frame = wire.encode_event(0, Token(text, 0))
    lines = frame.split(b"\n")
    assert len(lines) == 5 and lines[3:] == [b"", b""] and b"\r" not in frame
    data: dict[str, Any] = json.loads(lines[2].removeprefix(b"data: "))
    assert data["t"] == text

"""What every request passes before its endpoint, and every error after it."""

from __future__ import annotations

import json
import logging

import pytest

from orchd.errors import ClientError, Code
from orchd.http1.messages import Accepted, Head, Headers, Request, Response
from orchd.serving.task import Rejected
from tests.contracts.seen import SeenDoor
from tests.fakes.house import TASK_ID, FakeReplica, FakeService, build_context

TOKEN = "s3cret"
AUTHORIZATION: Headers = ((b"authorization", b"Bearer s3cret"),)
PATHS = ["/health", "/v1/tasks", f"/v1/tasks/{TASK_ID}/stream", "/metrics", "/nowhere", "*", ""]


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def door(service: FakeService) -> SeenDoor:
    return SeenDoor(build_context(service, FakeReplica()), TOKEN)


def envelope_of(response: object) -> dict[str, str | None]:
    assert isinstance(response, Response)
    envelope = json.loads(response.body)
    assert list(envelope) == ["code", "message", "engine"]
    assert len(response.body) < 1024
    return dict(envelope)


def head(method: str, path: str, headers: Headers = AUTHORIZATION) -> Head:
    return Head(method, path, "", headers)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "DELETE"])
@pytest.mark.parametrize("headers", [(), ((b"authorization", b"Bearer wrong"),)])
def test_without_the_token_nothing_is_told(
    door: SeenDoor, method: str, path: str, headers: Headers
) -> None:
    response = door.open(head(method, path, headers))
    assert envelope_of(response)["code"] == "UNAUTHORIZED"
    assert isinstance(response, Response) and response.status == 401
    assert dict(response.headers)[b"www-authenticate"] == b"Bearer"


@pytest.mark.parametrize(
    "path", ["/nowhere", "/", "*", "/health/", "/v1/tasks/1", "/" + "x" * 10_000]
)
def test_an_unknown_path(door: SeenDoor, path: str) -> None:
    response = door.open(head("GET", path))
    assert isinstance(response, Response) and response.status == 404
    assert envelope_of(response)["code"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/health", b"GET, HEAD"),
        ("OPTIONS", "/health", b"GET, HEAD"),
        ("GET", "/v1/tasks", b"POST"),
        ("HEAD", f"/v1/tasks/{TASK_ID}/cancel", b"POST"),
        ("X" * 10_000, f"/v1/tasks/{TASK_ID}/stream", b"GET, HEAD"),
    ],
)
def test_a_method_that_is_not_for_the_path(
    door: SeenDoor, method: str, path: str, allow: bytes
) -> None:
    response = door.open(head(method, path))
    assert isinstance(response, Response) and response.status == 405
    assert envelope_of(response)["code"] == "METHOD_NOT_ALLOWED"
    assert dict(response.headers)[b"allow"] == allow


def submit(door: SeenDoor, body: bytes = b'{"prompt": "a"}') -> Response:
    asked = head("POST", "/v1/tasks", (*AUTHORIZATION, (b"content-length", b"%d" % len(body))))
    accepted = door.open(asked)
    assert isinstance(accepted, Accepted)
    reply = accepted.handler(Request(asked, accepted.params, body))
    assert isinstance(reply, Response)
    return reply


def test_a_body_is_judged_behind_the_token_and_the_route(door: SeenDoor) -> None:
    xml = (*AUTHORIZATION, (b"content-type", b"text/xml"), (b"content-length", b"1"))
    statuses = [
        (head("POST", "/v1/tasks", xml[1:]), 401),
        (head("POST", "/nowhere", xml), 404),
        (head("GET", "/v1/tasks", xml), 405),
        (head("POST", "/v1/tasks", xml), 415),
        (head("POST", "/v1/tasks"), 411),
    ]
    for asked, status in statuses:
        response = door.open(asked)
        assert isinstance(response, Response) and response.status == status
        envelope_of(response)
    assert isinstance(door.open(head("POST", f"/v1/tasks/{TASK_ID}/cancel")), Accepted)


def test_an_admission(door: SeenDoor, service: FakeService) -> None:
    assert submit(door).status == 202
    assert service.submitted[0].generation.prompt == "a"


def test_a_rejection(door: SeenDoor, service: FakeService) -> None:
    service.outcome = Rejected(Code.ADMISSION_REJECT, "full", "llamacpp", 1.5)
    response = submit(door)
    assert response.status == 429
    assert envelope_of(response)["engine"] == "llamacpp"


def test_a_refusal_of_the_endpoint_is_the_envelope(door: SeenDoor, service: FakeService) -> None:
    response = submit(door, b"{}")
    assert response.status == 400
    assert envelope_of(response)["code"] == "INVALID_PARAMS"
    assert not service.submitted


def test_a_bug_is_logged_and_costs_a_500(
    door: SeenDoor, service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service.outcome = RuntimeError("the secret reason")
    with caplog.at_level(logging.ERROR):
        response = submit(door)
    assert response.status == 500
    assert envelope_of(response)["code"] == "INTERNAL"
    assert b"secret" not in response.body and b"Traceback" not in response.body
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.message == "failed at POST /v1/tasks"
    assert "prompt" not in record.message


def test_a_request_that_broke_http(door: SeenDoor) -> None:
    response = door.refuse(ClientError(Code.HEADERS_TOO_LARGE, "too large"))
    assert response.status == 431
    assert envelope_of(response) == {
        "code": "HEADERS_TOO_LARGE",
        "message": "too large",
        "engine": None,
    }

"""Foreign clients on the real daemon, each doing the whole job; the engine is a fake one that gives
its next token when the test says so."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.contracts.seen import SeenClient
from tests.e2e.clients.client import TIMEOUT_S, Answer, Event, HttpClient
from tests.e2e.clients.curl import Curl
from tests.e2e.clients.node import NodeClient
from tests.e2e.clients.python import HttpxClient, StandardClient, StreamsClient
from tests.fakes.daemon import TOKEN, RunningDaemon
from tests.fakes.gate import Gate

CLIENTS: Mapping[str, Callable[[int], HttpClient]] = {
    "curl": Curl,
    "curl --http1.0": lambda port: Curl(port, "--http1.0"),
    "http.client": StandardClient,
    "httpx": HttpxClient,
    "streams": StreamsClient,
    "node": NodeClient,
}
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module", params=CLIENTS)
def client(request: pytest.FixtureRequest, fake_daemon: RunningDaemon) -> Iterator[HttpClient]:
    client = CLIENTS[request.param](fake_daemon.port)
    try:
        yield SeenClient(client)
    finally:
        client.close()


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """The comments of a silent stream keep a client from ever giving up by itself."""

    def give_up(*_: object) -> None:
        raise TimeoutError("nothing came for too long")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def submit(client: HttpClient, prompt: str) -> str:
    """Submit a task; returns its path."""
    headers = AUTHORIZED | {"Content-Type": "application/json"}
    body = json.dumps({"prompt": prompt, "max_tokens": 1000}).encode()
    answer = client.ask("POST", "/v1/tasks", headers, body)
    assert answer.status == 202
    task_path = f"/v1/tasks/{answer.json()['task_id']}"
    assert answer.headers["location"] == f"{task_path}/stream"
    return task_path


def tell(event: Event) -> tuple[str, str, object]:
    return event.id, event.name, json.loads(event.data)


def refused(answer: Answer, status: int, code: str) -> str:
    """The message of a refusal, which is proven to be one."""
    assert answer.status == status
    envelope = answer.json()
    assert list(envelope) == ["code", "message", "engine"]
    assert envelope["code"] == code
    return str(envelope["message"])


STARTED = ("0", "started", {"queue_position": 0, "predicted_start_ms": 0})


def test_health(client: HttpClient) -> None:
    for _ in range(3):
        answer = client.ask("GET", "/health", AUTHORIZED)
        assert (answer.status, answer.json()["status"]) == (200, "ok")
    head = client.ask("HEAD", "/health", AUTHORIZED)
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", f"Basic {TOKEN}"])
def test_without_the_token(client: HttpClient, authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, body in (("GET", None), ("POST", b'{"prompt": "a"}')):
        answer = client.ask(method, "/v1/tasks", headers, body)
        refused(answer, 401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_tokens_come_one_by_one_and_can_be_read_again(client: HttpClient, gate: Gate) -> None:
    task_path = submit(client, f"{gate.wish} [tokens 4]")
    with client.stream(f"{task_path}/stream", AUTHORIZED) as (head, events):
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
        assert head.headers["cache-control"] == "no-store"
        assert tell(next(events)) == STARTED
        assert tell(next(events)) == ("1", "token", {"t": "t0 ", "i": 0})
        for n in range(1, 4):
            # It is not let go before all that came earlier was read.
            gate.let_through()
            assert tell(next(events)) == (str(n + 1), "token", {"t": f"t{n} ", "i": n})
        gate.let_through()
        number, name, figures = tell(next(events))
        assert (number, name) == ("5", "end")
        assert figures == {
            "tokens_in": 5,
            "tokens_out": 4,
            "decode_ms": 2,
            "finish_reason": "stop",
        }
        assert next(events, None) is None
    for last, count in ((None, 6), ("0", 5), ("3", 2), ("4", 1), ("5", 0)):
        headers = AUTHORIZED if last is None else AUTHORIZED | {"Last-Event-ID": last}
        with client.stream(f"{task_path}/stream", headers) as (_, events):
            assert [event.id for event in events] == [str(n) for n in range(6)][6 - count :]
    beyond = AUTHORIZED | {"Last-Event-ID": "6"}
    refused(client.ask("GET", f"{task_path}/stream", beyond), 400, "INVALID_PARAMS")


def test_a_lost_stream_is_taken_up_again(client: HttpClient, gate: Gate) -> None:
    task_path = submit(client, f"{gate.wish} [tokens 3]")
    with client.stream(f"{task_path}/stream", AUTHORIZED) as (_, events):
        assert [next(events).name, next(events).name] == ["started", "token"]
    gate.let_through()
    with client.stream(f"{task_path}/stream", AUTHORIZED | {"Last-Event-ID": "1"}) as (_, events):
        assert tell(next(events)) == ("2", "token", {"t": "t1 ", "i": 1})
        gate.let_through(2)
        assert [event.id for event in events] == ["3", "4"]


def test_a_cancel(client: HttpClient, gate: Gate) -> None:
    task_path = submit(client, f"{gate.wish} [tokens 4]")
    with client.stream(f"{task_path}/stream", AUTHORIZED) as (_, events):
        assert [next(events).name, next(events).name] == ["started", "token"]
        answer = client.ask("POST", f"{task_path}/cancel", AUTHORIZED)
        assert (answer.status, answer.body) == (204, b"")
        gate.let_through(4)
        last = next(events)
        assert (last.id, last.name, json.loads(last.data)["code"]) == ("2", "error", "CANCELLED")
        assert next(events, None) is None
    assert client.ask("POST", f"{task_path}/cancel", AUTHORIZED).status == 204


def test_refusals(client: HttpClient) -> None:
    for path in ("/nowhere", "/v1/tasks/unknown/stream"):
        refused(client.ask("GET", path, AUTHORIZED), 404, "NOT_FOUND")
    answer = client.ask("DELETE", "/health", AUTHORIZED)
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, HEAD"
    answer = client.ask("POST", "/v1/tasks", AUTHORIZED, b'{"promt": "a"}')
    assert "did you mean 'prompt'?" in refused(answer, 400, "INVALID_PARAMS")
    assert client.ask("GET", "/health", AUTHORIZED).status == 200

"""What the contracts do not say is found out: by the witness, and by every client that has it."""

from __future__ import annotations

import copy
import http.client
import json
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import getitem
from typing import Any

import httpx
import pytest

from orchd.http1.messages import Head
from tests.contracts.documents import CONTRACTS, OUTSIDE, Contracts
from tests.contracts.seen import SeenDoor, SeenResponse, see_httpx
from tests.contracts.witness import EVENTS, UndocumentedError, Witness, stream_of
from tests.fakes.daemon import TIMEOUT_S, TOKEN, RunningDaemon
from tests.fakes.gate import Gate
from tests.fakes.house import FakeReplica, FakeService, build_context

Answer = tuple[str, str, int, list[tuple[str, str]], bytes | None]
Edit = Callable[[dict[str, dict[str, Any]]], object]


@pytest.fixture(scope="module")
def answers(provider: RunningDaemon) -> list[Answer]:
    """One of each kind that a healthy daemon gives, read by a client that judges nothing."""
    token = {"Authorization": f"Bearer {TOKEN}"}
    found: list[Answer] = []

    def ask(method: str, path: str, body: str | None = None, **headers: str) -> bytes:
        client = http.client.HTTPConnection("127.0.0.1", provider.port, timeout=TIMEOUT_S)
        client.request(method, path, body, headers or token)
        with client.getresponse() as answer:
            data = answer.read()
            found.append((method, path, answer.status, answer.getheaders(), data))
        client.close()
        return data

    submitted = json.loads(ask("POST", "/v1/tasks", '{"prompt": "[tokens 2]"}'))
    task = f"/v1/tasks/{submitted['task_id']}"
    ask("GET", f"{task}/stream")
    ask("POST", f"{task}/cancel")
    ask("POST", "/v1/tasks", '{"prompt": 1}')
    ask("POST", "/v1/tasks/none/cancel")
    ask("GET", "/health")
    ask("GET", "/metrics")
    ask("GET", "/health", Authorization="none")
    ask("GET", "/nowhere")
    ask("DELETE", "/v1/tasks")
    return found


def without(edit: Edit) -> Witness:
    """A witness for whom something is not documented."""
    documents = copy.deepcopy(dict(CONTRACTS.documents))
    edit(documents)
    return Witness(Contracts(documents))


def is_red(witness: Witness, answers: list[Answer]) -> bool:
    try:
        for answer in answers:
            witness.hold(*answer)
    except UndocumentedError:
        return True
    return False


def test_what_is_documented_is_taken(answers: list[Answer]) -> None:
    witness = Witness()
    assert not is_red(witness, answers)
    statuses = {status for _, status in witness.seen}
    assert statuses == {200, 202, 204, 400, 401, 404, 405}
    assert (OUTSIDE, 404) in witness.seen and ("cancelTask", 404) in witness.seen


SHOWN = (
    *(("control.yaml", name) for name in ("Health", "Pool", "Replica")),
    *(("data.yaml", name) for name in ("Admitted", "Envelope", "Started", "Token", "Ended")),
)


@pytest.mark.parametrize(
    ("document", "schema", "field"),
    [
        (document, schema, field)
        for document, schema in SHOWN
        # Those that each answer has; the others are in answers of their own.
        for field in CONTRACTS.documents[document]["components"]["schemas"][schema]["required"]
    ],
)
def test_a_field_that_is_not_documented(
    answers: list[Answer], document: str, schema: str, field: str
) -> None:
    def forget(documents: dict[str, dict[str, Any]]) -> None:
        told = documents[document]["components"]["schemas"][schema]
        del told["properties"][field]
        told["required"].remove(field)

    assert is_red(without(forget), answers)


def list_headers(node: Any, way: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to every header of every answer."""
    if isinstance(node, dict):
        for key, inner in node.items():
            if key == "headers" and way[-1:] != ("components",):
                yield from ((*way, key, name) for name in inner)
            yield from list_headers(inner, (*way, key))


SEEN_HEADERS = {
    *("submitTask 202 Location", "submitTask 202 Cache-Control", "streamTask 200 Cache-Control"),
    *("streamTask 200 X-Accel-Buffering", "getHealth 200 Cache-Control", "405 Allow"),
    *("Unauthorized WWW-Authenticate", "TaskNotFound Cache-Control", "InvalidParams Cache-Control"),
}


def forget_at(document: str, way: Sequence[str]) -> Edit:
    """Leave out what stands there."""
    *above, last = way
    return lambda documents: reduce(getitem, above, documents[document]).pop(last)


def test_a_header_that_is_not_documented(answers: list[Answer]) -> None:
    red = set()
    for name, document in CONTRACTS.documents.items():
        for way in list_headers(document):
            if is_red(without(forget_at(name, way)), answers):
                told = document["paths"].get(way[1], {}).get(way[2], {})
                red.add(" ".join([*told.get("operationId", "").split(), way[-3], way[-1]]))
    assert red >= SEEN_HEADERS


def test_a_status_that_is_not_documented(answers: list[Answer]) -> None:
    count = 0
    for operation in CONTRACTS.operations:
        for method, path, status, *_ in answers:
            if operation.fits(method, path):
                way = operation.spot.below("responses", str(status)).way
                assert is_red(without(forget_at(operation.spot.document, way)), answers)
                count += 1
    assert count == 8


def test_an_event_that_is_not_documented(answers: list[Answer]) -> None:
    spot = stream_of(CONTRACTS).spot
    for event in ("started", "token", "end"):
        way = spot.below("x-sse-events", event).way
        assert is_red(without(forget_at(spot.document, way)), answers), event


def list_open_objects(node: Any) -> Iterator[Any]:
    """The schemas of objects that would take a key that nobody documented."""
    match node:
        case {"type": "object"} if node.get("additionalProperties", True) is True:
            yield node
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for value in inner:
        yield from list_open_objects(value)


def test_every_object_is_closed() -> None:
    assert list(list_open_objects({"type": "object"}))
    for document in CONTRACTS.documents.values():
        assert list(list_open_objects(document)) == []


# -- the witness is asked ------------------------------------------------------------------------


def forget_a_field(documents: dict[str, dict[str, Any]]) -> None:
    """One that is in every answer's way: of the envelope, of /health, of a token."""
    del documents["data.yaml"]["components"]["schemas"]["Envelope"]["properties"]["engine"]
    del documents["data.yaml"]["components"]["schemas"]["Token"]["properties"]["i"]
    del documents["control.yaml"]["components"]["schemas"]["Replica"]["properties"]["restarts"]


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client's witness lacks a field."""
    witness = without(forget_a_field)
    monkeypatch.setattr(SeenResponse, "witness", witness)
    monkeypatch.setattr("tests.contracts.seen.WITNESS", witness)


@pytest.mark.usefixtures("forgetful")
def test_the_daemons_client_asks_it(provider: RunningDaemon, gate: Gate) -> None:
    with pytest.raises(UndocumentedError, match="restarts"):
        provider.ask("GET", "/health").read()
    with pytest.raises(UndocumentedError, match="engine"):
        provider.ask("GET", "/nowhere").read()
    with pytest.raises(UndocumentedError, match="event token"):
        provider.submit("[tokens 1]").read()
    stream = provider.submit(f"[tokens 2] {gate.wish}")
    with pytest.raises(UndocumentedError, match="event token"):
        for _ in stream:
            pass


@pytest.mark.usefixtures("forgetful")
def test_httpx_asks_it(provider: RunningDaemon) -> None:
    hooks = {"response": [see_httpx]}
    token = {"Authorization": f"Bearer {TOKEN}"}
    url = f"http://127.0.0.1:{provider.port}"
    with (
        httpx.Client(base_url=url, headers=token, event_hooks=hooks) as client,
        pytest.raises(UndocumentedError, match="restarts"),
    ):
        client.get("/health")


@pytest.mark.usefixtures("forgetful")
def test_the_door_asks_it() -> None:
    door = SeenDoor(build_context(FakeService(), FakeReplica()), TOKEN)
    with pytest.raises(UndocumentedError, match="engine"):
        door.open(Head("GET", "/health", "", ()))


def test_a_body_of_another_type_or_none() -> None:
    witness = Witness()
    store = ("Cache-Control", "no-store")
    with pytest.raises(UndocumentedError, match="the body is 'text/html'"):
        witness.hold("GET", "/metrics", 200, [store, ("Content-Type", "text/html")], b"")
    with pytest.raises(UndocumentedError, match="no body is documented"):
        witness.hold("POST", "/v1/tasks/a/cancel", 204, [], b"{}")
    with pytest.raises(UndocumentedError, match="Cache-Control is missing"):
        witness.hold("GET", "/metrics", 200, [("Content-Type", EVENTS)], b"")
    with pytest.raises(UndocumentedError, match="other fields"):
        witness.hold_frame('event: token\ndata: {"t":"a","i":0}')
    witness.hold_frame(": waiting in the queue")

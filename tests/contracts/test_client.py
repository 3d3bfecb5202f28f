"""Who has read the contracts and nothing else can write a client that works."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from orchd.config.model import ServerConfig
from tests.contracts import client as client_module
from tests.contracts.client import Client
from tests.contracts.documents import CONTRACTS, FOLDER
from tests.contracts.witness import stream_of
from tests.fakes.daemon import TOKEN, RunningDaemon
from tests.fakes.gate import Gate


@pytest.fixture
def client(provider: RunningDaemon) -> Client:
    return Client(FOLDER, TOKEN, f"http://127.0.0.1:{provider.port}")


def make_least(operation_id: str) -> dict[str, str]:
    """The body that the operation's schema asks for at least: the first of its alternatives."""
    spot = CONTRACTS.operation(operation_id).spot.below("requestBody", "content")
    ((media_type, _),) = CONTRACTS.read(spot).items()
    _, schema = CONTRACTS.follow(spot.below(media_type, "schema"))
    needed = schema["oneOf"][0]["required"]
    assert all(schema["properties"][name]["type"] == "string" for name in needed)
    return dict.fromkeys(needed, "Once upon a time")


def test_a_task_from_its_submission_to_its_end(client: Client) -> None:
    ticket = client.call("submitTask", make_least("submitTask"))
    operation_id, parameters = client.follow("submitTask", "events", ticket)
    events = list(client.stream(operation_id, **parameters))
    assert [event.is_last for event in events] == [False] * (len(events) - 1) + [True]
    assert len(events) > 2
    told = json.dumps([event.data for event in events])
    assert "t0 " in told and "t7 " in told


def test_a_task_that_is_cancelled_in_mid_stream(client: Client, gate: Gate) -> None:
    body = dict.fromkeys(make_least("submitTask"), f"[tokens 9] {gate.wish}")
    ticket = client.call("submitTask", body)
    operation_id, parameters = client.follow("submitTask", "events", ticket)
    stream = client.stream(operation_id, **parameters)
    first, second = next(stream), next(stream)
    assert not first.is_last and not second.is_last
    operation_id, parameters = client.follow("submitTask", "cancel", ticket)
    assert client.call(operation_id, **parameters) is None
    (*_, last) = stream
    assert last.is_last and "CANCELLED" in last.data.values()


def test_how_it_stands(client: Client) -> None:
    health = client.call("getHealth")
    schema = CONTRACTS.documents["control.yaml"]["components"]["schemas"]["Health"]
    assert health.keys() == set(schema["required"])
    assert client.call("getMetrics").startswith("# HELP ")


def test_the_documents_name_the_daemons_own_address() -> None:
    for document in CONTRACTS.documents.values():
        assert document["servers"][0]["url"] == f"http://{ServerConfig().listen}"


def test_the_client_brings_nothing_of_its_own() -> None:
    """No path, field or event of the API is written in it, and no module of ours is used."""
    tree = ast.parse(Path(client_module.__file__).read_text())
    literals = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    schemas = CONTRACTS.documents["data.yaml"]["components"]["schemas"]
    ours = {name for schema in schemas.values() for name in schema.get("properties", ())}
    ours |= CONTRACTS.read(stream_of(CONTRACTS).spot.below("x-sse-events")).keys()
    for operation in CONTRACTS.operations:
        ours |= {operation.operation_id, operation.path, *operation.path.split("/")} - {""}
    assert len(ours) > 40
    assert literals & ours == set()
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(str(name).startswith(("orchd", "tests")) for name in imported)

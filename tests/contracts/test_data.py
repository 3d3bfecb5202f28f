"""The data plane's contract, held to the code that it describes."""

from __future__ import annotations

import json
from typing import Any

import openapi_spec_validator
import orjson
import pytest

from orchd.api import task_body, wire
from orchd.api.routes import ROUTES
from orchd.engines.adapter import Generation
from orchd.errors import ClientError, Code
from orchd.serving.task import Admitted, Ended, Failed, Started, TaskEvent, Token
from tests.api.test_task_body import BAD, GOOD
from tests.contracts.documents import read_contract, validator
from tests.contracts.witness import Witness

CONTRACT = read_contract("data.yaml")
SCHEMAS = CONTRACT["components"]["schemas"]
EVENTS: dict[str, TaskEvent] = {
    "started": Started(3, None),
    "token": Token("Hello", 0),
    "end": Ended(5, 1, 23, "stop"),
    "error": Failed(Code.CANCELLED, "unwanted", None),
}


def is_valid(name: str, value: object) -> bool:
    return bool(validator("data.yaml", name).is_valid(value))


def test_it_is_openapi() -> None:
    openapi_spec_validator.validate(CONTRACT)


def test_it_has_the_routes_of_the_data_plane() -> None:
    served = {(r.method, r.pattern) for r in ROUTES if r.pattern.startswith("/v1/tasks")}
    methods = ("get", "post")
    told = {
        (method.upper(), path)
        for path, operations in CONTRACT["paths"].items()
        for method in methods
        if method in operations
    }
    assert told == served


def test_it_has_every_field_and_every_code() -> None:
    assert set(SCHEMAS["TaskRequest"]["properties"]) == set(task_body._FIELDS)
    assert SCHEMAS["Envelope"]["properties"]["code"]["enum"] == list(Code)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value, _ in GOOD])
def test_what_the_code_takes_the_contract_allows(name: str, value: Any) -> None:
    assert is_valid("TaskRequest", {"prompt": "a"} | {name: value})


def is_integer_in_json_schema_alone(value: object) -> bool:
    """1.0 is an integer there, and none to us."""
    return isinstance(value, float) and value.is_integer()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name, (_, values) in BAD.items()
        for value in values
        if not is_integer_in_json_schema_alone(value)
    ],
)
def test_what_the_code_refuses_the_contract_forbids(name: str, value: Any) -> None:
    task = {name: value} if name == "messages" else {"prompt": "a"} | {name: value}
    assert not is_valid("TaskRequest", task)


@pytest.mark.parametrize("name", EVENTS)
def test_each_event_is_as_it_says(name: str) -> None:
    frame = wire.encode_event(0, EVENTS[name]).decode()
    assert f"event: {name}\n" in frame
    Witness().hold_frame(frame.removesuffix("\n\n"))


def test_the_answers_are_as_it_says() -> None:
    task_id = "123e4567-e89b-12d3-a456-426614174000"
    assert is_valid(
        "Admitted", orjson.loads(wire.admitted_response(Admitted(task_id, 0, None, 0)).body)
    )
    assert is_valid("Envelope", orjson.loads(wire.error_response(Code.CONFLICT, "known").body))


def read_examples(node: Any) -> list[tuple[str, Any]]:
    """Every example of a JSON body, with the name of its schema."""
    match node:
        case {"schema": {"$ref": str(schema)}}:
            examples = [named["value"] for named in node.get("examples", {}).values()]
            examples += [node["example"]] if "example" in node else []
            return [(schema.rpartition("/")[2], example) for example in examples]
        case dict():
            return [found for value in node.values() for found in read_examples(value)]
        case list():
            return [found for value in node for found in read_examples(value)]
        case _:
            return []


@pytest.mark.parametrize(("schema", "example"), read_examples(CONTRACT))
def test_each_example_is_valid(schema: str, example: Any) -> None:
    assert is_valid(schema, example)
    if schema == "TaskRequest":
        assert task_body.read_task(json.dumps(example).encode()).generation != Generation()


@pytest.mark.parametrize("field", ["deadline_ms", "tenant", "correlation_id"])
def test_what_the_specification_dropped_is_in_neither(field: str) -> None:
    assert field not in json.dumps(CONTRACT)
    with pytest.raises(ClientError, match=f"unknown field '{field}'"):
        task_body.read_task(json.dumps({"prompt": "a", field: 1}).encode())

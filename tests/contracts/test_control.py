"""The control plane's contract, held to the code that it describes."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import openapi_spec_validator
import pytest

from orchd.api import reload_body, wire
from orchd.api.reload_body import MAX_PATH_BYTES
from orchd.api.routes import ROUTES
from orchd.errors import ClientError
from orchd.http1.messages import Head, Request, Response
from orchd.reload_outcome import ReloadBusy, Reloaded, ReloadFailed, Strategy
from orchd.runner.incident import KEPT
from orchd.runner.lifecycle import State
from orchd.runner.model_history import KEPT as RETIRED_KEPT
from orchd.runner.output import TAIL_LINES
from tests.api import test_reload_body as reload_bodies
from tests.contracts.documents import CONTRACTS, FOLDER, read_contract, validator
from tests.fakes.house import DEATH, FakeDevice, FakeReload, FakeReplica, FakeService, build_context

CONTRACT = read_contract("control.yaml")
HEALTH = validator("control.yaml", "Health")
SCHEMAS = CONTRACT["components"]["schemas"]
RELOAD = CONTRACT["paths"]["/v1/pools/{pool_id}/reload"]["post"]

LOST = FakeDevice(None, 1, None, None, None, 0, None, "has fallen off the bus")


def ask(path: str, *replicas: FakeReplica, **house: Any) -> Response:
    (show,) = (route.target for route in ROUTES if route.pattern == path)
    context = build_context(FakeService(), *replicas, **house)
    reply = show(context, Request(Head("GET", path, "", ()), {}, b""))
    assert isinstance(reply, Response)
    return reply


def test_it_is_openapi() -> None:
    openapi_spec_validator.validate(CONTRACT, base_uri=(FOLDER / "control.yaml").as_uri())


def test_it_has_the_routes_that_are_not_of_the_data_plane() -> None:
    served = {(r.method, r.pattern) for r in ROUTES if not r.pattern.startswith("/v1/tasks")}
    ours = [one for one in CONTRACTS.operations if one.spot.document == "control.yaml"]
    assert {(one.method, one.path) for one in ours} == served
    assert len({one.operation_id for one in CONTRACTS.operations}) == len(ROUTES)


def test_its_bounds_and_states_are_those_of_the_code() -> None:
    assert SCHEMAS["Replica"]["properties"]["state"]["enum"] == list(State)
    assert SCHEMAS["Pool"]["properties"]["incidents"]["maxItems"] == KEPT
    assert SCHEMAS["Pool"]["properties"]["retired"]["maxItems"] == RETIRED_KEPT
    assert SCHEMAS["Incident"]["properties"]["last_lines"]["maxItems"] == TAIL_LINES


@pytest.mark.parametrize(
    "replica",
    [
        FakeReplica(),
        FakeReplica("crashed; tries again in 1 s", "backoff", 1, True, device=None, pid=None),
        FakeReplica(engine_version=None),
    ],
    ids=["ready", "backoff", "no version yet"],
)
def test_health_is_as_it_says(replica: FakeReplica) -> None:
    house: dict[str, Any] = {
        "incidents": (DEATH,),
        "devices": (FakeDevice(), LOST),
        "devices_reason": "no driver",
    }
    HEALTH.validate(json.loads(ask("/health", replica, **house).body))
    HEALTH.validate(json.loads(ask("/health").body))
    for strategy in (None, *Strategy):
        house |= {"under_way": FakeReload(strategy=strategy), "retired": ("/m/a.gguf",)}
        HEALTH.validate(json.loads(ask("/health", replica, **house).body))


def list_keys(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every key of every object."""
    items = enumerate(value) if isinstance(value, list) else value.items()
    for key, inner in items:
        if isinstance(value, dict):
            yield (*at, key)
        if isinstance(inner, dict | list):
            yield from list_keys(inner, (*at, key))


def test_a_key_more_or_less_would_be_seen() -> None:
    shown = json.loads(
        ask("/health", FakeReplica(), incidents=(DEATH,), devices=(FakeDevice(),)).body
    )
    keys = list(list_keys(shown))
    assert len(keys) > 40
    for *way, key in keys:
        less, more = copy.deepcopy(shown), copy.deepcopy(shown)
        inner_less, inner_more = less, more
        for step in way:
            inner_less, inner_more = inner_less[step], inner_more[step]
        del inner_less[key]
        inner_more["undocumented"] = 1
        assert not HEALTH.is_valid(less), (*way, key)
        assert not HEALTH.is_valid(more), way


def test_metrics_are_as_it_says() -> None:
    reply = ask("/metrics", FakeReplica())
    (told,) = CONTRACT["paths"]["/metrics"]["get"]["responses"]["200"]["content"]
    assert (b"content-type", told.encode()) in reply.headers
    assert (b"cache-control", b"no-store") in reply.headers


# -- reload --------------------------------------------------------------------------------------

RELOAD_REQUEST = validator("control.yaml", "ReloadRequest")
RELOADED = validator("control.yaml", "Reloaded")
ENVELOPE = validator("data.yaml", "Envelope")
DONE = Reloaded("chat", "/models/b.gguf", "/models/a.gguf", Strategy.IN_PLACE, 0)


def takes(body: dict[str, object], engine: str) -> bool:
    try:
        reload_body.read_new_model_ref(json.dumps(body).encode(), engine)
    except ClientError:
        return False
    return True


def test_a_reload_takes_what_it_says() -> None:
    assert SCHEMAS["ReloadRequest"]["properties"]["new_model_ref"]["maxLength"] == MAX_PATH_BYTES
    assert set(SCHEMAS["ReloadRequest"]["properties"]) == {"new_model_ref"}
    assert SCHEMAS["Reloaded"]["properties"]["strategy"]["enum"] == list(Strategy)
    for path in reload_bodies.GOOD:
        RELOAD_REQUEST.validate({"new_model_ref": path})
    for value in (*reload_bodies.BAD, "-x", "~x", ".x", "Qwen/Qwen3-8B"):
        # JSON Schema counts characters, a path is counted in bytes.
        is_long = isinstance(value, str) and len(value) <= MAX_PATH_BYTES < len(value.encode())
        # What no pool of one engine takes may be a model of another.
        is_taken = is_long or takes({"new_model_ref": value}, "vllm")
        assert RELOAD_REQUEST.is_valid({"new_model_ref": value}) is is_taken, value
    assert not RELOAD_REQUEST.is_valid({"new_model": "/a"})


def test_a_reload_is_answered_as_it_says() -> None:
    answers = [
        wire.reload_response(outcome, "llamacpp")
        for outcome in (DONE, ReloadFailed("it died"), ReloadBusy("one is under way"))
    ]
    assert {str(answer.status) for answer in answers} < set(RELOAD["responses"])
    body, *errors = (json.loads(answer.body) for answer in answers)
    RELOADED.validate(body)
    assert not RELOADED.is_valid(body | {"undocumented": 1})
    assert not any(RELOADED.is_valid({k: v for k, v in body.items() if k != key}) for key in body)
    for error in errors:
        ENVELOPE.validate(error)
    codes = {error["code"] for error in errors}
    told = json.dumps(RELOAD["responses"])
    assert codes == {"RELOAD_FAILED", "CONFLICT"} and all(code in told for code in codes)


def test_the_examples_of_a_reload_are_valid() -> None:
    for named in RELOAD["requestBody"]["content"]["application/json"]["examples"].values():
        RELOAD_REQUEST.validate(named["value"])
        assert takes(named["value"], "llamacpp")
    shown = 0
    for status, answer in RELOAD["responses"].items():
        content = answer.get("content", {}).get("application/json", {})
        examples = [named["value"] for named in content.get("examples", {}).values()]
        examples += [content["example"]] if "example" in content else []
        for example in examples:
            shown += 1
            (RELOADED if status == "200" else ENVELOPE).validate(example)
    assert shown == 5


def test_its_example_is_valid() -> None:
    answer = CONTRACT["paths"]["/health"]["get"]["responses"]["503"]
    HEALTH.validate(answer["content"]["application/json"]["example"])

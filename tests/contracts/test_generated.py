"""Requests that schemathesis makes from the contracts alone, good and bad, to the real daemon.

Whatever comes back is documented, what a schema allows is taken, and what it forbids is refused.
A few thousand cases, the same in every run; ``--fuzz-seconds N`` gives each operation new ones for
so long.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import settings
from schemathesis import Case, CheckFunction, GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, response_schema_conformance

from tests.contracts.documents import CONTRACTS, FOLDER
from tests.contracts.wire import NO_POOL, OF_A_POOL
from tests.contracts.witness import EVENTS, WITNESS, stream_of
from tests.fakes.daemon import TOKEN, RunningDaemon

LEAST_CASES = 2000
LOGINS = 50
"""After so many cases of an operation it is known that none goes without the token; to send each of
them twice more would double the time."""
CTX = 4096
"""Of the pool's slots."""
DATA = schemathesis.openapi.from_path(FOLDER / "data.yaml")
CONTROL = schemathesis.openapi.from_path(FOLDER / "control.yaml")
STREAM = f"GET {stream_of(CONTRACTS).path}"
FIELDS = CONTRACTS.documents["data.yaml"]["components"]["schemas"]["TaskRequest"]["properties"]
INTEGERS = [name for name, told in FIELDS.items() if told.get("type") == "integer"]
WRONG_OF_STREAMS = [response_schema_conformance]
"""It takes the schema of text/event-stream for that of one event, which OpenAPI has from 3.2 on as
``itemSchema``. Events are the witness's."""


class Range:
    """Where the requests go, by one connection, and what came of them."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.url = f"http://127.0.0.1:{daemon.port}"
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.hooks["response"].append(see_requests)
        self.came: Counter[tuple[str, int]] = Counter()
        """By operation and status."""
        self._sent: Counter[str] = Counter()
        pool = json.load(daemon.ask("GET", "/health"))["pools"][0]
        self._pool = {"pool_id": pool["pool_id"], "model_ref": pool["model"]}
        self._pool["engine"] = pool["engine"]
        # Every other path names a task that there is.
        submitted = daemon.ask("POST", "/v1/tasks", {"prompt": "[tokens 2]", "priority": "batch"})
        self._tasks = cycle([None, json.load(submitted)["task_id"]])

    def send(self, case: Case[Any]) -> None:
        """Send it and judge what comes."""
        self._aim(case)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = case.call(base_url=self.url, session=self.session, headers=headers)
        self.came[case.operation.label, answer.status_code] += 1
        case.validate_response(answer, excluded_checks=self._exclude(case.operation.label))

    def _exclude(self, label: str) -> list[CheckFunction]:
        self._sent[label] += 1
        excluded = [*WRONG_OF_STREAMS] if label == STREAM else []
        if self._sent[label] > LOGINS:
            excluded.append(ignored_auth)
        return excluded

    def _aim(self, case: Case[Any]) -> None:
        """Name what there is where a schema can only say that it must have a name."""
        if OF_A_POOL in case.path_parameters:
            case.path_parameters[OF_A_POOL] = NO_POOL
        if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
            return
        if isinstance(case.body, dict):
            body: dict[str, Any] = case.body
            body.update((name, its) for name, its in self._pool.items() if name in body)
            # To JSON Schema 1.0 is an integer; what is said of it in words goes beyond that.
            body.update((n, int(v)) for n, v in body.items() if n in INTEGERS)
            if "ctx" in body:
                body["ctx"] = min(body["ctx"], CTX)
        if "task_id" in case.path_parameters and (task_id := next(self._tasks)):
            case.path_parameters["task_id"] = task_id
        if "Last-Event-ID" in case.headers:
            case.headers["Last-Event-ID"] = "0"


def see_requests(answer: requests.Response, *_: Any, **__: Any) -> None:
    """A hook that holds what requests has read to the contracts as the other clients do."""
    asked = answer.request
    assert asked.method and asked.url
    path = asked.url.removeprefix("http://").partition("/")[2]
    body = None if answer.headers.get("content-type") == EVENTS else answer.content
    WITNESS.hold(asked.method, f"/{path}", answer.status_code, answer.headers.items(), body)


@pytest.fixture(scope="module")
def target(provider: RunningDaemon) -> Iterator[Range]:
    target = Range(provider)
    with target.session:
        yield target
    if {label for label, _ in target.came} == {
        f"{o.method} {o.path}" for o in CONTRACTS.operations
    }:
        assert target.came.total() >= LEAST_CASES, target.came
        assert {status for _, status in target.came} >= {200, 202, 204, 400, 401, 404, 405, 409}


@DATA.parametrize()
@settings(max_examples=560)
def test_the_data_plane(case: Case[Any], target: Range) -> None:
    target.send(case)


@CONTROL.parametrize()
@settings(max_examples=50)
def test_the_control_plane(case: Case[Any], target: Range) -> None:
    target.send(case)

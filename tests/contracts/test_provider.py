"""The daemon gives every answer that the contracts document, and each example is a true one.

What is listed in them and given by nobody here is red: a new answer is provoked in ``provoke``, or
named in ``ELSEWHERE`` with the test that shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contracts import wire
from tests.contracts.documents import CONTRACTS, OUTSIDE, Spot
from tests.contracts.provoke import (
    GENERAL,
    SPECIAL,
    Narrow,
    first_example,
    read_to_the_end,
)
from tests.contracts.wire import Answer, Request, ask, list_examples
from tests.contracts.witness import EVENTS

ROOT = Path(__file__).parents[2]
ELSEWHERE: dict[tuple[str, str], str] = {}
"""Answers that cannot be had of this daemon without harm: operation and status (``2xx`` for its
examples), and the test that shows it."""


def is_shown_elsewhere(who: str, status: str) -> bool:
    """Whether another test has that; it must be there."""
    if (who, status) not in ELSEWHERE:
        return False
    file, _, test = ELSEWHERE[who, status].partition("::")
    assert f"def {test}(" in (ROOT / file).read_text()
    return True


# -- every documented answer ---------------------------------------------------------------------


def list_answers(*, are_good: bool) -> Iterator[tuple[str, str]]:
    for operation in (*CONTRACTS.operations, None):
        for status in CONTRACTS.read(CONTRACTS.responses(operation)):
            if (status < "300") == are_good:
                yield (operation.operation_id if operation else OUTSIDE), status


ERRORS = list(list_answers(are_good=False))
# What takes its time is asked for last.
ERRORS.sort(key=lambda answer: answer[1] == "408")


@pytest.mark.parametrize(("who", "status"), ERRORS)
def test_every_documented_error_is_given(narrow: Narrow, who: str, status: str) -> None:
    if is_shown_elsewhere(who, status):
        return
    operation = None if who == OUTSIDE else CONTRACTS.operation(who)
    provoke = SPECIAL.get((who, status)) or GENERAL.get(status)
    assert provoke, f"nobody provokes {status} of {who}"
    answer = provoke(narrow, first_example(operation))
    assert answer.status == int(status)
    example = read_example(CONTRACTS.responses(operation).below(status))
    if isinstance(example, dict) and "code" in example:
        assert answer.json["code"] == example["code"]
        assert wire.mask(answer.json["message"]) == wire.mask(example["message"])
        assert answer.json["engine"] == example["engine"]
    else:
        assert wire.is_like(wire.shape(example), wire.shape(answer.json))


def read_example(response: Spot) -> Any:
    """The one of an answer's body."""
    _, told = CONTRACTS.follow(response)
    ((_, content),) = told["content"].items()
    return content["example"]


# -- every example -------------------------------------------------------------------------------


EXAMPLES = [
    (operation.operation_id, name, request)
    for operation in CONTRACTS.operations
    if not is_shown_elsewhere(operation.operation_id, "2xx")
    for name, request in list_examples(operation)
]


@pytest.fixture(scope="module")
def submitted(narrow: Narrow) -> dict[bytes, Answer]:
    """The answers to the examples of a task, by body; one of them is streamed and cancelled."""
    answers = {}
    for operation_id, _, request in EXAMPLES:
        if operation_id == "submitTask":
            answers[request.body] = ask(narrow.port, request)
            read_to_the_end(narrow, answers[request.body])
    return answers


@pytest.mark.parametrize(
    ("operation_id", "request_"),
    [pytest.param(one, request, id=f"{one}-{name}") for one, name, request in EXAMPLES],
)
def test_an_example_is_answered_as_its_example_says(
    narrow: Narrow, submitted: dict[bytes, Answer], operation_id: str, request_: Request
) -> None:
    operation = CONTRACTS.operation(operation_id)
    responses = CONTRACTS.responses(operation)
    (wanted,) = (status for status in CONTRACTS.read(responses) if status < "300")
    answer = submitted.get(request_.body) or ask(narrow.port, narrow.at_home(request_))
    assert answer.status == int(wanted), answer.body
    if answer.status == 204:
        return
    example = read_example(responses.below(wanted))
    match answer.headers["content-type"]:
        case "application/json":
            assert wire.is_like(wire.shape(example), wire.shape(answer.json)), answer.json
        case media_type if media_type == EVENTS:
            shown, told = list_keys(answer.body.decode()), list_keys(example)
            assert shown and shown.items() <= told.items()
        case _:
            page = wire.mask(answer.body.decode()).splitlines()
            for line in wire.mask(example).replace("bN", "fake-N").splitlines():
                assert any(line == real or line in real for real in page), line


def list_keys(stream: str) -> dict[str, set[str]]:
    """The keys of each event's data."""
    found = {}
    for frame in stream.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in frame.splitlines())
        found[fields["event"]] = set(json.loads(fields["data"]))
    return found


def test_every_answer_with_a_body_has_an_example() -> None:
    count = 0
    for operation in (*CONTRACTS.operations, None):
        for status in CONTRACTS.read(responses := CONTRACTS.responses(operation)):
            spot, told = CONTRACTS.follow(responses.below(status))
            for media_type in told.get("content", ()):
                example = read_example(spot)
                if media_type == "application/json":
                    schema = spot.below("content", media_type, "schema")
                    CONTRACTS.validator(schema).validate(example)
                count += 1
    assert count > 60

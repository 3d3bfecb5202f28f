"""Answers other than 200, in every server's shape; those in mid-stream are with the streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchd.engines.adapter import Refused
from orchd.engines.openai_errors import find_error, read_refusal
from orchd.errors import EngineError

DETAILS = {
    "detail": [
        {
            "type": "less_than_equal",
            "loc": ["body", "top_p"],
            "msg": "Input should be less than or equal to 1",
            "input": 5,
        },
        {
            "type": "missing",
            "loc": ["body", "messages", 0],
            "msg": "Field required",
            "input": "Once",
        },
        {"type": "odd", "loc": "body", "msg": "odd"},
        "not a fault",
    ]
}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"message": "too long", "type": "x", "code": 400}}, Refused("too long")),
        (400, {"object": "error", "message": "too long", "code": 400}, Refused("too long")),
        (422, {"error": "no room", "error_type": "validation"}, Refused("no room")),
        (404, {"detail": "Not Found"}, Refused("Not Found")),
        (
            422,
            DETAILS,
            Refused(
                "top_p: Input should be less than or equal to 1; messages.0: Field required; odd"
            ),
        ),
        (422, {"detail": {"error": {"message": "nested"}}}, Refused("nested")),
        (400, {"error": {"message": {"odd": 1}}}, Refused("HTTP 400")),
        (400, {"error": {}}, Refused("HTTP 400")),
        (422, {"detail": []}, Refused("HTTP 422")),
        (400, {}, Refused("HTTP 400")),
        (400, [1], Refused("HTTP 400")),
        (429, {"error": "full", "error_type": "overloaded"}, Refused("full", is_busy=True)),
        (429, {}, Refused("HTTP 429", is_busy=True)),
        # The status that counts is HTTP's.
        (400, {"error": {"message": "no", "code": 500}}, Refused("no")),
        (500, {"error": {"message": "oh", "code": 400}}, "answered HTTP 500: oh"),
        (503, {"detail": "Service is not available"}, "HTTP 503: Service is not available"),
        (302, {}, "^answered HTTP 302$"),
        # TGI's for a generation that failed.
        (424, {"error": "CUDA", "error_type": "generation"}, "answered HTTP 424: CUDA"),
        (401, {"error": "Unauthorized"}, "does not take our key .HTTP 401.: it is not the engine"),
        (403, {"detail": "Not authenticated"}, "does not take our key .HTTP 403."),
        (400, {"error": {"message": "x" * 5000}}, Refused("x" * 1000)),
        (400, {"detail": [{"msg": "x" * 5000}]}, Refused("x" * 1000)),
        (500, {"error": {"message": "x" * 5000}}, "^answered HTTP 500: x{1000}$"),
    ],
)
def test_whose_fault_an_answer_is(status: int, body: Any, expected: Refused | str) -> None:
    raw = json.dumps(body).encode()
    if isinstance(expected, Refused):
        assert read_refusal(status, raw) == expected
    else:
        with pytest.raises(EngineError, match=expected):
            read_refusal(status, raw)


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"Unauthorized", b'"text"'])
def test_what_is_no_json_says_its_status(body: bytes) -> None:
    assert read_refusal(404, body) == Refused("HTTP 404")


def test_what_a_server_repeats_of_the_request_is_not_told() -> None:
    error = find_error(DETAILS)
    assert error is not None and "Once" not in error.message


PYDANTIC = "1 validation error: [{'type': 'x', 'loc': ('body', 'top_p'), 'msg': 'too much', %s"


@pytest.mark.parametrize(
    "repeats", ["'input': {'prompt': 'Once'}}]", '"input": "Once"', "input_value='Once', x=1]"]
)
@pytest.mark.parametrize("status", [400, 500])
def test_of_validation_errors_the_input_is_not_told(status: int, repeats: str) -> None:
    """llama-cpp-python answers them with 500; they are the task's, and hold its prompt."""
    body = json.dumps({"error": {"message": PYDANTIC % repeats, "type": "internal_server_error"}})
    expected = Refused((PYDANTIC % "") + "…")
    assert read_refusal(status, body.encode()) == expected
    error = find_error(json.loads(body))
    assert error is not None and (error.status, error.message) == (400, expected.message)


@pytest.mark.parametrize(
    "detail",
    [
        PYDANTIC % "'input': 'Once'}]",
        {"message": PYDANTIC % "'input': 'Once'}]"},
        {"error": {"message": PYDANTIC % "'input': 'Once'}]"}},
        [{"msg": PYDANTIC % "'input': 'Once'}]"}],
    ],
)
def test_the_input_is_told_nowhere_in_a_detail(detail: Any) -> None:
    for said in ({"detail": detail}, {"error": {"detail": detail}}):
        error = find_error(said)
        assert error is not None and error.message.endswith("'msg': 'too much', …")


@pytest.mark.parametrize("depth", [1, 400, 1000])
def test_a_place_nested_without_an_end_is_no_bug_of_ours(depth: int) -> None:
    place = b"[" * depth + b"]" * depth
    body = b'{"detail":[{"loc":["body","top_p",%s,1],"msg":"no"}]}' % place
    assert read_refusal(422, body) == Refused("top_p.1: no")


def test_other_inputs_are_no_input() -> None:
    error = find_error({"error": "Input validation error: `inputs` tokens, given input length 5"})
    assert error is not None and error.message.endswith("given input length 5")


def test_a_long_list_of_faults_is_cut() -> None:
    detail = [{"msg": f"fault {n}"} for n in range(100)]
    refused = read_refusal(422, json.dumps({"detail": detail}).encode())
    assert refused.message == "fault 0; fault 1; fault 2; fault 3; fault 4"

"""Finds the error in what a server of OpenAI's API sent, in any of the shapes that there are.

In the body of an HTTP error and in mid-stream alike. What a message repeats of the request is not
taken (FastAPI's and pydantic's ``input``): that is the prompt.

Sources: OpenAI's API reference; vLLM's and SGLang's ``ErrorResponse``, nested and flat; TGI's
``router/src`` (``ErrorResponse``, ``OpenaiErrorEvent``); llama-cpp-python's ``server/errors.py``;
FastAPI's validation errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchd.engines.adapter import Refused
from orchd.engines.answers import (
    UNTOLD,
    WORDS_CHARS,
    ServerError,
    judge_answer,
    parse_json_or_none,
)

_DETAILS = 5
"""Of a list of faults, so many are told."""
_TASK, _BUSY = 400, 429
_WORDS: Mapping[str, int] = {
    **dict.fromkeys(
        (
            *("invalid_request_error", "badrequesterror", "bad_request_error", "bad_request"),
            *("validation", "validation_error", "template_error", "missing_template_variable"),
            *("tool_error", "tokenizer", "context_length_exceeded", "exceed_context_size_error"),
            *("unprocessableentityerror", "notfounderror", "model_not_found", "invalid_prompt"),
        ),
        _TASK,
    ),
    **dict.fromkeys(
        (
            *("rate_limit_error", "rate_limit_exceeded", "ratelimiterror", "too_many_requests"),
            *("overloaded", "overloaded_error", "server_overloaded"),
        ),
        _BUSY,
    ),
    "authenticationerror": 401,
    "authentication_error": 401,
}
"""What the words of ``type``, ``code`` and ``error_type`` stand for. All others: the engine gave
up, and no client is told that it was to blame."""
_BEGINNINGS: Mapping[str, int] = {
    "Input validation error": _TASK,
    "Template error": _TASK,
    "Model is overloaded": _BUSY,
}
"""TGI marks every error in mid-stream with 422, its own failures too: only its words tell."""


_VALIDATION = re.compile(r"\d+ validation errors?\b")
_INPUT = re.compile(r"""['"]?\binput(?:_value)?['"]?\s*[:=]""")


def find_error(said: Mapping[str, Any]) -> ServerError | None:
    """The error that this is, None where it is none."""
    match said:
        # Some servers have an empty "error" in each event.
        case {"error": error} if error:
            return _read_error(error, said)
        case {"choices": _} | {"usage": {}}:
            return None
        case {"detail": detail}:
            return ServerError(_status_of(said), _join(detail))
        case {"object": "error"} | {"message": str()}:
            return _read_error(said, {})
        case _:
            return None


def read_refusal(status: int, body: bytes) -> Refused:
    """An answer other than 200. Raises EngineError where the engine is at fault, or not ours."""
    said = parse_json_or_none(body)
    error = find_error(said) if isinstance(said, dict) else None
    if error is not None and _VALIDATION.match(error.message):
        # llama-cpp-python's 500 for a parameter out of its range.
        status = _TASK
    if error is None or error.message == UNTOLD:
        return judge_answer(status, "")
    return judge_answer(status, error.message)


def _read_error(error: object, around: Mapping[str, Any]) -> ServerError:
    match error:
        case {"message": str(message)}:
            pass
        case {"detail": detail}:
            message = _join(detail)
        case str(message):
            pass
        case _:
            message = UNTOLD
    message = _without_input(message)
    own = _status_of(error) if isinstance(error, dict) else None
    status = own or _status_of(around) or _status_of_message(message)
    return ServerError(status, message)


def _status_of(said: Mapping[str, Any]) -> int | None:
    for key in ("code", "status", "status_code"):
        match said.get(key):
            case bool():
                continue
            case int(code):
                return code
            case str(code) if code.isascii() and code.isdigit() and len(code) == 3:
                return int(code)
    for key in ("code", "type", "error_type"):
        word = said.get(key)
        if isinstance(word, str) and (status := _WORDS.get(word.lower())) is not None:
            return status
    return None


def _status_of_message(message: str) -> int | None:
    if _VALIDATION.match(message):
        return _TASK
    return next((s for start, s in _BEGINNINGS.items() if message.startswith(start)), None)


def _join(detail: object) -> str:
    """FastAPI's list of faults, or its words."""
    match detail:
        case str():
            message = detail
        case [*faults]:
            message = "; ".join(filter(None, map(_describe, faults[:_DETAILS])))
        case {"message": str(message)} | {"error": {"message": str(message)}}:
            pass
        case _:
            message = ""
    return _without_input(message) or UNTOLD


def _describe(fault: object) -> str:
    match fault:
        case {"loc": [*place], "msg": str(problem)}:
            # Names and places in lists; what else comes may be nested without an end.
            steps = [step for step in _without_body(place) if isinstance(step, str | int)]
            where = ".".join(map(str, steps))
            return f"{where}: {problem}" if where else problem
        case {"msg": str(problem)}:
            return problem
        case _:
            return ""


def _without_input(message: str) -> str:
    """As far as it does not repeat what it was sent, as pydantic's do; no more than is told."""
    message = message[:WORDS_CHARS]
    found = _INPUT.search(message)
    return message if found is None else message[: found.start()] + "…"


def _without_body(place: Sequence[object]) -> Sequence[object]:
    return place[1:] if place[:1] == ["body"] else place

"""The body of ``POST /v1/tasks``: one table of fields, every fault named at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchd.api.fields import (
    MAX_FAULTS_SHOWN,
    Check,
    WrongValueError,
    check_fields,
    describe_unknown,
    read_object,
)
from orchd.engines.adapter import ChatTurn, Generation
from orchd.errors import ClientError, Code
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.task import Priority

MAX_STOPS = 16
MAX_TURNS = 4096
MAX_NAME_CHARS = 4096
"""Of a pool, a model or an engine; a path is no longer, and messages show it."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise WrongValueError.wanting("a string")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS:
        raise WrongValueError.wanting(f"a string of 1 to {MAX_NAME_CHARS} characters")
    return value


def _uuid(value: Any) -> str:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        example = "123e4567-e89b-12d3-a456-426614174000"
        raise WrongValueError.wanting(f"a UUID such as {example}")
    return value.lower()


def _one_of(*known: str) -> Check:
    def check(value: Any) -> str:
        if value not in known:
            raise WrongValueError.wanting(" or ".join(f'"{name}"' for name in known))
        return str(value)

    return check


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise WrongValueError.wanting(f"an integer from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise WrongValueError.wanting(f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise WrongValueError.wanting(f"a string or a list of up to {MAX_STOPS} strings")
    for n, stop in enumerate(stops):
        if not isinstance(stop, str) or not stop:
            path = f"[{n}]" if stops is value else ""
            raise WrongValueError.wanting("a string that is not empty", path)
    return tuple(stops)


def _turns(value: Any) -> tuple[ChatTurn, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TURNS:
        expected = f'a list of 1 to {MAX_TURNS} turns {{"role": "...", "content": "..."}}'
        raise WrongValueError.wanting(expected)
    turns: list[ChatTurn] = []
    faults: list[str] = []
    for n, turn in enumerate(value):
        match turn:
            case {"role": str(role), "content": str(content), **rest} if role and not rest:
                turns.append(ChatTurn(role, content))
            case _ if len(faults) < MAX_FAULTS_SHOWN:
                faults += (f"[{n}]{fault}" for fault in _find_turn_faults(turn))
    if faults:
        raise WrongValueError(*faults)
    return tuple(turns)


def _find_turn_faults(turn: Any) -> Iterator[str]:
    if not isinstance(turn, dict):
        yield ' must be a turn {"role": "...", "content": "..."}'
        return
    if not isinstance(turn.get("role"), str) or not turn["role"]:
        yield ".role must be a string that is not empty"
    if not isinstance(turn.get("content"), str):
        yield ".content must be a string"
    for name in list(turn)[:MAX_FAULTS_SHOWN]:
        if name not in ("role", "content"):
            yield f": {describe_unknown(name, ('role', 'content'))}"


_FIELDS: Mapping[str, Check] = {
    "prompt": _string,
    "messages": _turns,
    "task_id": _uuid,
    "session_id": _uuid,
    "pool_id": _name,
    "model_ref": _name,
    "engine": _name,
    "workload": _one_of("completion"),
    "priority": _one_of(*Priority),
    "max_tokens": _integer(1, 1_000_000),
    "ctx": _integer(1, 10_000_000),
    "seed": _integer(0, 2**32 - 1),
    "temperature": _number(0, 100),
    "top_p": _number(0, 1),
    "top_k": _integer(0, 1_000_000),
    "min_p": _number(0, 1),
    "stop": _stops,
}
_SAMPLING = ("seed", "temperature", "top_p", "top_k", "min_p")


def read_task(body: bytes) -> TaskRequest:
    """What the client wants. Raises ClientError that names every fault of the body."""
    document = read_object(body)
    values, faults = check_fields(document, _FIELDS)
    if ("prompt" in document) == ("messages" in document):
        faults.append("exactly one of prompt and messages is needed")
    if faults:
        raise ClientError(Code.INVALID_PARAMS, "; ".join(faults))
    return TaskRequest(
        generation=Generation(
            prompt=values.get("prompt"),
            messages=values.get("messages"),
            max_tokens=values.get("max_tokens"),
            sampling={name: values[name] for name in _SAMPLING if name in values},
            stop=values.get("stop", ()),
        ),
        priority=Priority(values.get("priority", Priority.INTERACTIVE)),
        task_id=values.get("task_id"),
        session_id=values.get("session_id"),
        pool_id=values.get("pool_id"),
        model_ref=values.get("model_ref"),
        engine=values.get("engine"),
        ctx=values.get("ctx"),
        size_bytes=len(body),
    )

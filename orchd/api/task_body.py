"""The body of ``POST /v1/tasks``: one table of fields, every fault named at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson

from orchd.engines.adapter import ChatTurn, Generation
from orchd.errors import ClientError, Code
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.task import Priority

MAX_STOPS = 16
MAX_TURNS = 4096
MAX_NAME_CHARS = 4096
"""Of a pool, a model or an engine; a path is no longer, and messages show it."""
MAX_FAULTS_SHOWN = 8
"""Of unknown fields, and about as many of turns: to look for the names nearest to 500,000 takes
minutes."""
MAX_COMMAS = 65_536
"""Commas and opening brackets, which bound the values: MAX_TURNS turns have 12,288. To read four
million empty lists, which fit into a body, would hold up everybody for more than a second."""
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class _WrongValueError(ValueError):
    """Each of ``faults`` is a path below the field, and what stands against the value there."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults

    @classmethod
    def wanting(cls, expected: str, path: str = "") -> _WrongValueError:
        return cls(f"{path} must be {expected}")


Check = Callable[[Any], Any]
"""Takes a field's JSON value, returns its domain value or raises _WrongValueError."""


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _WrongValueError.wanting("a string")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME_CHARS:
        raise _WrongValueError.wanting(f"a string of 1 to {MAX_NAME_CHARS} characters")
    return value


def _uuid(value: Any) -> str:
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        example = "123e4567-e89b-12d3-a456-426614174000"
        raise _WrongValueError.wanting(f"a UUID such as {example}")
    return value.lower()


def _one_of(*known: str) -> Check:
    def check(value: Any) -> str:
        if value not in known:
            raise _WrongValueError.wanting(" or ".join(f'"{name}"' for name in known))
        return str(value)

    return check


def _integer(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _WrongValueError.wanting(f"an integer from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise _WrongValueError.wanting(f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise _WrongValueError.wanting(f"a string or a list of up to {MAX_STOPS} strings")
    for n, stop in enumerate(stops):
        if not isinstance(stop, str) or not stop:
            path = f"[{n}]" if stops is value else ""
            raise _WrongValueError.wanting("a string that is not empty", path)
    return tuple(stops)


def _turns(value: Any) -> tuple[ChatTurn, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TURNS:
        expected = f'a list of 1 to {MAX_TURNS} turns {{"role": "...", "content": "..."}}'
        raise _WrongValueError.wanting(expected)
    turns: list[ChatTurn] = []
    faults: list[str] = []
    for n, turn in enumerate(value):
        match turn:
            case {"role": str(role), "content": str(content), **rest} if role and not rest:
                turns.append(ChatTurn(role, content))
            case _ if len(faults) < MAX_FAULTS_SHOWN:
                faults += (f"[{n}]{fault}" for fault in _find_turn_faults(turn))
    if faults:
        raise _WrongValueError(*faults)
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
            yield f": {_describe_unknown(name, ('role', 'content'))}"


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
    if _has_too_many_values(body):
        raise ClientError(Code.INVALID_PARAMS, "the body holds more values than any task has")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ClientError(Code.INVALID_PARAMS, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ClientError(Code.INVALID_PARAMS, "the body must be a JSON object")
    values, faults = _check(document)
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


def _has_too_many_values(body: bytes) -> bool:
    if _count_commas(body) <= MAX_COMMAS:
        return False
    # Those in strings do not count: a prompt may be a document itself. A value and its key have
    # four quotes at most; where there are more, cutting at them would take as long as reading.
    bare = body
    if rb"\"" in body:
        bare = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if bare.count(b'"') > 4 * MAX_COMMAS:
        return True
    return _count_commas(b"".join(bare.split(b'"')[::2])) > MAX_COMMAS


def _count_commas(text: bytes) -> int:
    return sum(map(text.count, (b",", b"[", b"{")))


def _check(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    values: dict[str, Any] = {}
    faults: list[str] = []
    unknown: list[str] = []
    for name, value in document.items():
        check = _FIELDS.get(name)
        if check is None:
            unknown.append(name)
            continue
        try:
            values[name] = check(value)
        except _WrongValueError as error:
            faults += (f"{name}{fault}" for fault in error.faults)
    shown = unknown[:MAX_FAULTS_SHOWN]
    faults += (_describe_unknown(name, _FIELDS) for name in shown)
    if len(unknown) > len(shown):
        faults.append(f"{len(unknown) - len(shown)} more unknown fields")
    return values, faults


def _describe_unknown(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name[:64], known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown field {name[:64]!r}{hint}"

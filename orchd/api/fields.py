"""Reads a body that is a JSON object by a table of its fields, and names every fault at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from orchd.errors import ClientError, Code

MAX_FAULTS_SHOWN = 8
"""Of unknown fields, and about as many of a value: to look for the names nearest to 500,000 takes
minutes."""
MAX_COMMAS = 65_536
"""Commas and opening brackets, which bound the values: the longest conversation that is taken has
12,288. To read four million empty lists, which fit into a body, would hold up everybody for more
than a second."""


class WrongValueError(ValueError):
    """Each of ``faults`` is a path below the field, and what stands against the value there."""

    def __init__(self, *faults: str) -> None:
        self.faults = faults

    @classmethod
    def wanting(cls, expected: str, path: str = "") -> WrongValueError:
        return cls(f"{path} must be {expected}")


Check = Callable[[Any], Any]
"""Takes a field's JSON value, returns its domain value or raises WrongValueError."""


def read_object(body: bytes) -> dict[str, Any]:
    """The object that the body is. Raises ClientError where it is none, or holds too much."""
    if _has_too_many_values(body):
        raise ClientError(Code.INVALID_PARAMS, "the body holds more values than any task has")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ClientError(Code.INVALID_PARAMS, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ClientError(Code.INVALID_PARAMS, "the body must be a JSON object")
    return document


def check_fields(
    document: Mapping[str, Any], fields: Mapping[str, Check]
) -> tuple[dict[str, Any], list[str]]:
    """The domain values of the fields that are good, and every fault of the others."""
    values: dict[str, Any] = {}
    faults: list[str] = []
    unknown: list[str] = []
    for name, value in document.items():
        check = fields.get(name)
        if check is None:
            unknown.append(name)
            continue
        try:
            values[name] = check(value)
        except WrongValueError as error:
            faults += (f"{name}{fault}" for fault in error.faults)
    shown = unknown[:MAX_FAULTS_SHOWN]
    faults += [describe_unknown(name, fields) for name in shown]
    if len(unknown) > len(shown):
        faults.append(f"{len(unknown) - len(shown)} more unknown fields")
    return values, faults


def describe_unknown(name: str, known: Iterable[str]) -> str:
    """Names a field that there is not, and the nearest that there is."""
    near = difflib.get_close_matches(name[:64], known, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown field {name[:64]!r}{hint}"


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

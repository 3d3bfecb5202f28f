"""Reads what engines answer, whichever they are: JSON, figures, and whose fault an error is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import orjson

from orchd.engines.adapter import Refused
from orchd.errors import EngineError

WORDS_CHARS = 1000
"""How much of its words goes on to users, logs and /health: they may be as long as an answer."""
_VERSION_CHARS = 100
UNTOLD = "an error without a message"
_LARGEST_COUNT = 2**53
"""Beyond it a figure is garbage, and no JSON number that every reader understands."""
_HALVES_BYTES = 65_536
"""A longer event is no half of a character; Python's parser takes ten times as long as orjson."""
_NOT_OURS = (401, 403)
"""Ours takes our key; whoever does not has taken its port."""
_NOT_NOW = (408, 425, 429)
"""Request timeout, too early, too many requests."""
_NOT_THE_TASK = (424,)
"""TGI's for a generation that failed under way (its ``router/src/server.rs``)."""


@dataclass(frozen=True, slots=True)
class ServerError:
    """An error in an engine's own words."""

    status: int | None
    """HTTP's, or the one that its words stand for; None where they stand for none."""
    message: str


def cut_words(message: str) -> str:
    """As much of its words as is told. Half a surrogate pair is no text: no JSON could hold it."""
    return message[:WORDS_CHARS].encode(errors="replace").decode()


def judge(status: int, message: str) -> Refused | None:
    """Whose fault an error is: the task's where it is a 4xx; None where the engine's.

    Raises EngineError where it is not our engine that answers.
    """
    if status in _NOT_OURS:
        raise EngineError(f"does not take our key (HTTP {status}): it is not the engine we started")
    if 400 <= status < 500 and status not in _NOT_THE_TASK:
        return Refused(cut_words(message), is_busy=status in _NOT_NOW)
    return None


def judge_answer(status: int, message: str) -> Refused:
    """An answer of that status, with its words if it has any. Raises EngineError where the engine
    is at fault."""
    if (refused := judge(status, message or f"HTTP {status}")) is not None:
        return refused
    told = f": {cut_words(message)}" if message else ""
    raise EngineError(f"answered HTTP {status}{told}")


def judge_in_stream(error: ServerError) -> Refused:
    """An error in mid-stream. Raises EngineError where the engine is at fault."""
    refused = None if error.status is None else judge(error.status, error.message)
    if refused is not None:
        return refused
    raise EngineError(f"gave up: {cut_words(error.message)}")


def read_version(version: str) -> str | None:
    """It labels figures and stands in lines; None for what is none."""
    return version[:_VERSION_CHARS] if version and version.isprintable() else None


def count(said: Any, *path: str) -> int | None:
    """The number at the end of the path; None where there is none."""
    value: object = said
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(value) if 0 <= value <= _LARGEST_COUNT else None


def parse_json(body: bytes) -> Any:
    """Raises EngineError on what is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise EngineError("sent what is not JSON") from error


def parse_json_or_none(body: bytes) -> Any:
    """None for what is none."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def parse_event(data: bytes) -> Any:
    r"""JSON in which halves of surrogate pairs may stand alone (``"\ud83d"``): servers whose
    strings are UTF-16 cut there, and only both halves are a character. Raises EngineError on what
    is no JSON."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        try:
            # What orjson refuses for that alone, Python's own parser takes.
            if b"\\u" in data and len(data) <= _HALVES_BYTES:
                return json.loads(data)
        except (ValueError, RecursionError):
            pass
        raise EngineError("sent what is not JSON") from error

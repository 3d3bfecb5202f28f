"""One event of the log as bytes: for a reader, for the journal, or as JSON.

The fields of an event are the ``key=%s`` of its template, so a text that came from outside and
looks like one is none.

Invariants: no control character gets out, nor one that turns the direction of what is shown; a
line that does not begin with ``| `` (behind the journal's prefix) begins an event.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import orjson

Field = str | int | float | bool | None

# C0, DEL and C1 steer terminals; a lone surrogate has no UTF-8; the rest are line ends of their
# own, or change the order in which a line is shown.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_TRACE_MARK: Final = "| "

# What ``%`` takes of its arguments; Python's own grammar of it (printf-style String Formatting).
_CONVERSION = re.compile(
    r"(?:\b(?P<key>[a-z][a-z_]*)=)?%[-#0 +]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?)?[hlL]?"
    r"(?P<kind>[a-zA-Z%])"
)
_MAX_INTEGER: Final = 2**63
"""JSON of ours holds no larger one."""

_PRIORITIES: Final[Mapping[str, int]] = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "DEBUG": 7}
_INFO_PRIORITY: Final = 6
"""sd-daemon(3): what the kernel's log levels mean to the journal."""


@dataclass(frozen=True, slots=True)
class Event:
    """One call of a logger."""

    level: str
    """Its name, in capitals."""
    logger: str
    message: str
    fields: Mapping[str, Field]
    trace: str = ""
    """A traceback's lines."""


def read_fields(template: str, arguments: tuple[object, ...]) -> dict[str, Field]:
    """The template's keys with what is put there; ``-`` stands for what is not known."""
    fields: dict[str, Field] = {}
    if not arguments:
        return fields  # nothing is put anywhere: the template is the message
    left = iter(arguments)
    for conversion in _CONVERSION.finditer(template):
        for part in ("width", "precision"):
            if conversion[part] == "*":
                next(left, None)
        if conversion["kind"] != "%":
            value = next(left, None)
            if (key := conversion["key"]) is not None:
                fields[key] = _read_value(value)
    return fields


def _read_value(value: object) -> Field:
    match value:
        case None | "-":
            return None
        case bool() | float():
            return value
        case int() if abs(value) < _MAX_INTEGER:
            return int(value)
        case _:
            return str(value)


def write_text(event: Event, stamp: str) -> bytes:
    """For whoever reads a terminal or a file."""
    return _write_lines(event, "", f"{stamp} {event.level} ")


def write_journal(event: Event) -> bytes:
    """For systemd's journal, which adds the time and takes the priority off each line."""
    return _write_lines(event, f"<{_PRIORITIES.get(event.level, _INFO_PRIORITY)}>", "")


def write_json(event: Event, stamp: str) -> bytes:
    """One object a line; the event's own fields come behind those that each has."""
    told: dict[str, Field] = {
        "time": stamp,
        "level": event.level.lower(),
        "logger": event.logger,
        "message": event.message,
    }
    if event.trace:
        told["traceback"] = event.trace
    told = told | {key: value for key, value in event.fields.items() if key not in told}
    shown = {key: _clean(value) for key, value in told.items()}
    # JSON lets these stand; they are in strings only, where the escape means the same.
    line = _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", orjson.dumps(shown).decode())
    return line.encode() + b"\n"


def _write_lines(event: Event, prefix: str, head: str) -> bytes:
    lines = [f"{head}{event.logger}: {escape(event.message)}"]
    lines += [_TRACE_MARK + escape(line) for line in event.trace.split("\n") if line]
    text = "".join(f"{prefix}{line}\n" for line in lines)
    return text.encode("utf-8", "backslashreplace")


def escape(text: str, kept: str = "") -> str:
    """Text that cannot steer what shows it: but for those ``kept``, no control character is left,
    nor one that turns the direction."""

    def spell(found: re.Match[str]) -> str:
        character = found[0]
        return character if character in kept else _SHORT.get(character) or _spell(character)

    return _UNSAFE.sub(spell, text)


def _spell(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _clean(value: Field) -> Field:
    """A lone surrogate has no UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value

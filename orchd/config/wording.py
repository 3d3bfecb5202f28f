"""Says a document's keys and values to the user, in TOML's own words.

Only what fits on a line is shown: long strings are cut, arrays and tables are named, never written
out. What is a secret is named by its type at most.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_SHOWN_CHARACTERS = 60
_SHOWN_BITS = 256
_BARE_KEY = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def kind_of(value: object) -> str:
    """Return TOML's word for a value's type."""
    match value:
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "float"
        case str():
            return "string"
        case list():
            return "array"
        case Mapping():
            return "table"
    return type(value).__name__  # date, time and datetime: TOML says much the same


def show(value: object) -> str:
    """Write a value as the document would, short enough for a message."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() if value.bit_length() > _SHOWN_BITS:
            # Python refuses to write out some integers that TOML's hexadecimal form can hold.
            return f"an integer of {value.bit_length()} bits"
        case str():
            return _quote(value)
        case list():
            return "an array"
        case Mapping():
            return "a table"
    return str(value)


def show_key(name: str) -> str:
    """Write one part of a key path, in quotes where TOML needs them."""
    is_bare = 0 < len(name) <= _SHOWN_CHARACTERS and _BARE_KEY.issuperset(name)
    return name if is_bare else _quote(name)


def found(value: object, *, is_secret: bool) -> str:
    """Name a value of the right type that is not acceptable."""
    return "the value found is kept secret" if is_secret else f"found {show(value)}"


def found_kind(value: object, *, is_secret: bool) -> str:
    """Name a value of the wrong type, with its type."""
    kind = kind_of(value)
    article = "an" if kind[0] in "aeiou" else "a"
    if is_secret or isinstance(value, list | Mapping):
        return f"found {article} {kind}"
    return f"found the {kind} {show(value)}"


def _quote(text: str) -> str:
    cut = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    # What cannot be printed (control characters, lone surrogates) is escaped, the rest is legible.
    return json.dumps(cut, ensure_ascii=not cut.isprintable())

"""Writes contracts/config-schema/orchd.schema.json from the configuration's own model.

``--check`` writes nothing and exits 1 where the file is not what the model says. Every keyword
comes from the model's types and marks; what no keyword can say is told in ``$comment``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from orchd.config.listen import Listen, UnixListen
from orchd.config.marks import (
    Alone,
    Bounds,
    Check,
    Doc,
    Exclusive,
    Inherits,
    Length,
    Parsed,
    Pattern,
    Reserved,
    Secret,
    Unique,
)
from orchd.config.model import Config
from orchd.config.shape import alternatives, family, keys_of, split

FILE = Path(__file__).parents[1] / "contracts/config-schema/orchd.schema.json"
Schema = dict[str, Any]

BEYOND = (
    "a listen address that is neither host:port nor unix:/path",
    "two pools of one id",
    "one device twice in two spellings",
    "a float where an integer has to be, such as 1.0",
    "nan",
    "what the pool's engine does not allow of args, env, command, binary, sha256 and vram_mib",
)
"""What orchd refuses, and no keyword can say."""

_NO_NUL = "^[^\\u0000]*$"
_LENGTHS: Mapping[object, str] = {str: "Length", tuple: "Items", Mapping: "Properties"}


def build_schema() -> Schema:
    """The schema of the whole file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "orchd.toml",
        "description": "The configuration of orchd.",
        "$comment": f"Beyond this schema orchd refuses: {'; '.join(BEYOND)}.",
        **_describe(Config),
    }


def render() -> str:
    """The schema as the file holds it."""
    return json.dumps(build_schema(), indent=2) + "\n"


def _describe(declared: object) -> Schema:
    core, marks = split(declared)
    parsed = next((mark for mark in marks if isinstance(mark, Parsed)), None)
    members = alternatives(parsed.written if parsed else core)
    told: Schema = {}
    for mark in marks:
        match mark:
            case Doc(text):
                told["description"] = text
            case Secret():
                told["writeOnly"] = True
    schemas = [_describe_core(member) for member in members]
    told |= schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    for mark in marks:
        match mark:
            case Check():
                told |= _describe_check(mark, split(members[0])[0])
            case Inherits():
                # What is missing is taken from elsewhere, and not from the model's default.
                for inner in told["properties"].values():
                    inner.pop("default", None)
            case _:
                assert isinstance(mark, Doc | Secret | Parsed), mark
    if family(split(members[0])[0]) is str and "pattern" not in told:
        told["pattern"] = _NO_NUL
    return told


def _describe_core(declared: object) -> Schema:
    core, marks = split(declared)
    if marks:
        return _describe(declared)
    kind = family(core)
    if kind is int:
        return {"type": "integer"}
    if kind is float:
        return {"type": "number"}
    if kind is str:
        return {"type": "string"}
    if kind is Literal:
        return {"enum": list(get_args(core))}
    if kind is tuple:
        return {"type": "array", "items": _describe(get_args(core)[0])}
    if kind is Mapping:
        name, value = get_args(core)
        return {
            "type": "object",
            "propertyNames": _describe(name),
            "additionalProperties": _describe(value),
        }
    assert kind is dataclass and isinstance(core, type), f"no schema for {core}"
    return _describe_table(core)


def _describe_table(table: type) -> Schema:
    keys = keys_of(table)
    assert is_dataclass(table)
    defaults = {field.name: _write_default(field) for field in fields(table)}
    properties = {name: _describe(key.declared) | defaults[name] for name, key in keys.items()}
    required = [name for name, key in keys.items() if key.is_required]
    return {
        "type": "object",
        "additionalProperties": False,
        **({"required": required} if required else {}),
        "properties": properties,
    }


def _describe_check(check: Check, core: object) -> Schema:
    match check:
        case Bounds(low, high):
            return {"minimum": low, "maximum": high}
        case Length(low, high):
            what = _LENGTHS[family(core)]
            return ({f"min{what}": low} if low else {}) | {f"max{what}": high}
        case Pattern(regex):
            return {"pattern": f"^(?:{regex})$"}
        case Reserved(instead):
            return {"not": {"enum": list(instead)}}
        case Unique(key):
            return {} if key else {"uniqueItems": True}
        case Alone(item, beside):
            allowed = {"items": {"enum": [item, *beside]}}
            return {"if": {"contains": {"const": item}}, "then": allowed}
        case Exclusive((one, other)):
            return {"not": {"required": [one, other]}}
    raise AssertionError(f"no keyword for {check}")


def _write_default(field: Any) -> Schema:
    """The default as the file would say it; nothing where the key is missing by default."""
    value = field.default
    if value is MISSING and field.default_factory is not MISSING:
        value = field.default_factory()
    match value:
        case Listen() | UnixListen():
            return {"default": str(value)}
        case tuple():
            return {"default": list(value)}
        case Mapping():
            return {"default": dict(value)}
        case float() if value.is_integer():
            return {"default": int(value)}
        case int() | float() | str():
            return {"default": value}
    return {}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the configuration's JSON schema.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it is stale")
    options = parser.parse_args(arguments)
    if not options.check:
        FILE.write_text(render())
        return 0
    if FILE.is_file() and FILE.read_text() == render():
        return 0
    print(f"{FILE.name} is stale; run python tools/config_schema.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""What was measured of footprints, as a value and as the bytes of its file.

The newest ``ENTRIES_MAX`` are kept. Bytes that are not of this version, or not whole, are refused
with a reason: a footprint is learned again sooner than a wrong one is believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import orjson

from orchd.engines.memory_demand import DeviceKind

VERSION = 1
ENTRIES_MAX = 256
_BYTES_MAX = 1 << 50
"""A pebibyte: nobody's memory."""


@dataclass(frozen=True, slots=True)
class FootprintKey:
    """What a footprint depends on; where any of it changes, it is measured anew.

    Not in it: the pool's ``env``, which may hold secrets.
    """

    engine: str
    engine_version: str
    """Any text that changes whenever the engine does."""
    model: str
    """The path as it is configured."""
    files_bytes: int
    """Of all parts of the model, and of what is loaded beside it."""
    files_mtime_ns: int
    """The newest of them."""
    ctx: int
    slots: int
    args: tuple[str, ...]
    device_kind: DeviceKind


class UnreadableError(Exception):
    """The bytes are no footprints of this version; ``str()`` says why."""


Entries = Mapping[FootprintKey, int]
"""Oldest first."""


def add_entry(entries: Entries, key: FootprintKey, need_bytes: int) -> dict[FootprintKey, int]:
    """The entries with one more, or one anew; the oldest give way."""
    kept = {its: size for its, size in entries.items() if its != key}
    newest = list({**kept, key: need_bytes}.items())[-ENTRIES_MAX:]
    return dict(newest)


def is_measurable(need_bytes: int) -> bool:
    """False for what no load can have taken."""
    return 0 < need_bytes < _BYTES_MAX


def write_entries(entries: Entries) -> bytes:
    """The file's bytes, legible."""
    told = [{**asdict(key), "need_bytes": need_bytes} for key, need_bytes in entries.items()]
    document = {"version": VERSION, "footprints": told}
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def read_entries(content: bytes) -> dict[FootprintKey, int]:
    """The entries of a file. Raises UnreadableError."""
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise UnreadableError("it is not JSON") from error
    match document:
        case {"version": int(version), "footprints": list(told)} if version == VERSION:
            entries = [_read_entry(entry) for entry in told]
            return dict(entries[-ENTRIES_MAX:])
        case {"version": int(version)} if version != VERSION:
            raise UnreadableError(f"it is of version {version}, not {VERSION}")
    raise UnreadableError("it has another form")


def _read_entry(told: object) -> tuple[FootprintKey, int]:
    match told:
        case {
            "engine": str(engine),
            "engine_version": str(engine_version),
            "model": str(model),
            "files_bytes": int(files_bytes),
            "files_mtime_ns": int(files_mtime_ns),
            "ctx": int(ctx),
            "slots": int(slots),
            "args": list(args),
            "device_kind": "gpu" | "cpu" as device_kind,
            "need_bytes": int(need_bytes),
        } if all(isinstance(arg, str) for arg in args) and is_measurable(need_bytes):
            key = FootprintKey(
                *(engine, engine_version, model, files_bytes, files_mtime_ns),
                *(ctx, slots, tuple(args), device_kind),
            )
            return key, need_bytes
    raise UnreadableError("it has an entry of another form")

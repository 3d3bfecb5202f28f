"""Measured footprints as a value, and as the bytes of their file."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.remembered import (
    ENTRIES_MAX,
    FootprintKey,
    UnreadableError,
    add_entry,
    is_measurable,
    read_entries,
    write_entries,
)

KEY = FootprintKey(
    *("llamacpp", "b11549", "/models/ä.gguf", 4_000_000_000, 1_700_000_000_123_456_789),
    *(4096, 4, ("--flash-attn", "on"), "gpu"),
)


def test_what_is_written_is_read_again_in_its_order() -> None:
    entries = {KEY: 5_000_000_000, replace(KEY, ctx=8192): 1, replace(KEY, device_kind="cpu"): 2}
    assert list(read_entries(write_entries(entries)).items()) == list(entries.items())


def test_the_file_is_legible() -> None:
    assert '"model": "/models/ä.gguf"' in write_entries({KEY: 1}).decode()


@pytest.mark.parametrize(
    "changed",
    [
        replace(KEY, engine="vllm"),
        replace(KEY, engine_version="b11550"),
        replace(KEY, model="/models/b.gguf"),
        replace(KEY, files_bytes=1),
        replace(KEY, files_mtime_ns=1),
        replace(KEY, ctx=1),
        replace(KEY, slots=1),
        replace(KEY, args=("--flash-attn", "off")),
        replace(KEY, device_kind="cpu"),
    ],
)
def test_whatever_a_footprint_depends_on_makes_it_another(changed: FootprintKey) -> None:
    assert changed not in read_entries(write_entries({KEY: 1}))


def test_the_newest_are_kept() -> None:
    entries: dict[FootprintKey, int] = {}
    for ctx in range(ENTRIES_MAX + 10):
        entries = add_entry(entries, replace(KEY, ctx=ctx), 1)
    assert len(entries) == ENTRIES_MAX
    assert {key.ctx for key in entries} == set(range(10, ENTRIES_MAX + 10))


def test_what_is_measured_again_is_the_newest() -> None:
    other = replace(KEY, ctx=1)
    assert list(add_entry({KEY: 1, other: 2}, KEY, 3).items()) == [(other, 2), (KEY, 3)]


def test_a_file_with_more_than_are_kept_gives_its_newest() -> None:
    many = {replace(KEY, ctx=ctx): 1 for ctx in range(ENTRIES_MAX + 10)}
    assert {key.ctx for key in read_entries(write_entries(many))} == set(range(10, 266))


def with_entry(**changes: object) -> bytes:
    document = orjson.loads(write_entries({KEY: 1}))
    document["footprints"][0] |= changes
    return orjson.dumps(document)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is not JSON"),
        (b'{"version": 1, "footprints": [', "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[]", "it has another form"),
        (b"null", "it has another form"),
        (b'{"footprints": []}', "it has another form"),
        (b'{"version": "1", "footprints": []}', "it has another form"),
        (b'{"version": 2, "footprints": []}', "it is of version 2, not 1"),
        (b'{"version": 1, "footprints": {}}', "it has another form"),
        (b'{"version": 1, "footprints": [7]}', "it has an entry of another form"),
        (with_entry(ctx="4096"), "it has an entry of another form"),
        (with_entry(args=[1]), "it has an entry of another form"),
        (with_entry(args="--x"), "it has an entry of another form"),
        (with_entry(device_kind="tpu"), "it has an entry of another form"),
        (with_entry(need_bytes=0), "it has an entry of another form"),
        (with_entry(need_bytes=1.5), "it has an entry of another form"),
    ],
)
def test_what_is_no_such_file_is_refused_with_a_reason(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableError, match=f"^{reason}$"):
        read_entries(content)


@given(st.binary(max_size=200))
def test_any_bytes_are_entries_or_refused(content: bytes) -> None:
    with pytest.raises(UnreadableError):
        read_entries(content)


@pytest.mark.parametrize(
    ("need_bytes", "expected"),
    [(-1, False), (0, False), (1, True), ((1 << 50) - 1, True), (1 << 50, False)],
)
def test_a_measurement_is_a_size_that_a_machine_may_have(need_bytes: int, expected: bool) -> None:
    assert is_measurable(need_bytes) is expected

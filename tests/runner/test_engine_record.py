"""A daemon's record of its engines: whole, private, and refused where it is damaged."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from orchd.runner.engine_record import (
    Name,
    Record,
    make_record,
    read_name,
    read_record,
    write_record,
)
from tests.fakes.family import own_start

MARK = "0123456789abcdef" * 2
NAME = Name(4711, 123456, MARK)
RECORD = Record("a-boot", "pid:[1]", (12, 34), {56: 78, 90: 12})


def test_a_name_says_who_the_daemon_is_and_its_mark() -> None:
    assert str(NAME) == f"4711-123456-{MARK}.json"
    assert read_name(str(NAME)) == NAME
    assert read_name(f"4711-123456-{MARK}.draft") == Name(4711, 123456, MARK, is_draft=True)


@pytest.mark.parametrize(
    "name",
    [
        "token",
        f"-1-2-{MARK}.json",
        f"0-2-{MARK}.json",
        f"1-2-{MARK}",
        f"1-2-{MARK}.json~",
        f"1-2-{MARK[1:]}.json",
        f"1-2-{MARK.upper()}.json",
        f"1-2-{'9' * 31}\u0669.json",
        f"\u0661-2-{MARK}.json",
        f"99999999999-2-{MARK}.json",
    ],
)
def test_a_file_of_another_name_is_none_of_ours(name: str) -> None:
    assert read_name(name) is None


def test_what_is_written_is_read_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "engines" / str(NAME)
    write_record(path, RECORD)
    write_record(path, RECORD)
    assert read_record(path) == RECORD
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_our_own_record_names_this_boot_and_ourselves() -> None:
    record = make_record({1: 2})
    assert record.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert record.pid_namespace == str(Path("/proc/self/ns/pid").readlink())
    assert record.guardian == (os.getpid(), own_start())
    assert record.sessions == {1: 2}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b'{"boot": "b", "pid_namespace": "p", "guardian": [1, 2]}',
        b'{"boot": "b", "pid_namespace": "p", "guardian": [1], "sessions": {}}',
        b'{"boot": "b", "pid_namespace": "p", "guardian": [1, 2], "sessions": []}',
        b'{"boot": "b", "pid_namespace": "p", "guardian": [1, 2], "sessions": {"x": 1}}',
        b'{"boot": "b", "pid_namespace": "p", "guardian": [1, 1e999], "sessions": {}}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_one_is_told_from_a_good_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / str(NAME)
    path.write_bytes(content)
    assert read_record(path) is None


def test_a_named_pipe_in_its_place_does_not_hold_anybody_up(tmp_path: Path) -> None:
    path = tmp_path / str(NAME)
    os.mkfifo(path)
    assert read_record(path) is None

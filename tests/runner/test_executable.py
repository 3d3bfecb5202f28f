"""Which executable an engine runs with."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from pathlib import Path

import pytest

from orchd import engines
from orchd.engines.adapter import Binary, PythonModule
from orchd.errors import HostError
from orchd.runner.executable import Found, find_executable, identify_engine

EMBEDDED = PythonModule("embedded_llamacpp.py", "h11", "install it")
ABSENT = PythonModule("embedded_llamacpp.py", "no_such_package", "install it")


def put_program(folder: Path, name: str, mode: int = 0o755) -> Path:
    program = folder / name
    program.write_text("#!/bin/sh\n")
    program.chmod(mode)
    return program


def test_a_path_is_taken_where_it_can_be_run(tmp_path: Path) -> None:
    program = put_program(tmp_path, "engine")
    assert find_executable([Binary(str(program))]) == Found((str(program),), None)


def test_a_name_is_looked_up_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = put_program(tmp_path, "engine")
    assert find_executable([Binary("engine"), EMBEDDED]) == Found((str(program),), None)


def test_the_next_best_is_taken_where_the_first_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_executable([Binary("engine"), EMBEDDED])
    script = str(Path(engines.__file__).with_name("embedded_llamacpp.py"))
    assert found.command == (sys.executable, "-P", script)
    assert found.version == f"h11 {importlib.metadata.version('h11')}"


def test_what_is_missing_is_named_by_the_key_that_named_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(HostError, match=r"as the pool's command\[0\]$"):
        find_executable([Binary("engine", key="command[0]")])
    with pytest.raises(HostError, match=r"write as the pool's command\[0\] where it is$"):
        find_executable([Binary("/no/engine", key="command[0]")])


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "; write as the pool's binary where it is"),
        ("not executable", ": it may not be executed; chmod [+]x {}"),
        ("folder", ": it is a folder; name the program in it"),
    ],
)
def test_what_cannot_be_run_is_as_good_as_missing(tmp_path: Path, kind: str, words: str) -> None:
    program = tmp_path / "engine"
    if kind == "not executable":
        put_program(tmp_path, "engine", mode=0o644)
    if kind == "folder":
        program.mkdir()
    with pytest.raises(HostError, match=f"^no executable {program}{words.format(program)}$"):
        find_executable([Binary(str(program))])


def test_all_that_was_looked_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    expected = (
        "^no executable engine on PATH and no embedded engine; put engine there, or write its path"
        " as the pool's binary, or install it$"
    )
    with pytest.raises(HostError, match=expected):
        find_executable([Binary("engine"), ABSENT])


# -- which engine it is, before it runs --------------------------------------------------------


def test_an_embedded_engine_is_known_by_its_version() -> None:
    assert identify_engine([EMBEDDED]) == f"h11 {importlib.metadata.version('h11')}"


def test_a_binary_is_known_by_its_file(tmp_path: Path) -> None:
    program = put_program(tmp_path, "engine")
    link = tmp_path / "link"
    link.symlink_to(program)
    first = identify_engine([Binary(str(link))])
    assert first.startswith(f"{program} 10 ")
    os.utime(program, ns=(1, 1))
    assert identify_engine([Binary(str(link))]) == f"{program} 10 1"


def test_an_engine_that_is_not_there_is_known_by_nothing(tmp_path: Path) -> None:
    assert identify_engine([Binary(str(tmp_path / "absent")), ABSENT]) == ""

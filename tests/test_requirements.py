"""The table of requirements is whole and true, and a run that leaves one unshown is red."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchd.api.routes import ROUTES
from orchd.config.model import PoolConfig
from orchd.config.shape import keys_of
from tests.requirements import FILE, Row, find_faults, read_rows

ROOT = Path(__file__).parents[1]
ROWS = read_rows()
LEVELS = {"MUST", "SHOULD", "MAY", "MUST NOT"}
IS_BUILT: dict[str, Callable[[], bool]] = {
    "reload": lambda: any("reload" in route.pattern for route in ROUTES),
    "sha256": lambda: "sha256" in keys_of(PoolConfig),
}
"""What a row may wait for, and how it is known to be there."""


def list_tests(file: Path) -> set[str]:
    """Every test of a file as a node id names it, without its parameters."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        match node:
            case ast.FunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name, body=body):
                found |= {f"{name}::{f.name}" for f in body if isinstance(f, ast.FunctionDef)}
    return found


def test_it_has_a_row_for_each_statement() -> None:
    ids = [row.id for row in ROWS]
    told = {each["section"]: each["count"] for each in yaml.safe_load(FILE.read_text())["sections"]}
    wanted = [f"HP-{section}.{n + 1}" for section, count in told.items() for n in range(count)]
    assert ids == wanted
    levels = Counter(row.level for row in ROWS)
    assert levels.keys() == LEVELS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_met_somewhere_and_shown_by_tests_that_are_there(row: Row) -> None:
    assert row.words
    if row.pending is not None:
        assert not row.tests
        assert not IS_BUILT[row.pending](), f"{row.pending} is there; name where, and its tests"
        return
    assert row.met_in and row.tests
    for path in row.met_in:
        assert (ROOT / path).is_file(), path
    for test in row.tests:
        file, _, name = test.partition("::")
        assert name in list_tests(ROOT / file), test


def test_what_must_not_be_has_tests_of_its_own() -> None:
    for row in ROWS:
        if row.level == "MUST NOT":
            assert any("test_must_not.py::" in test for test in row.tests), row.id


ROW = Row("HP-1", "MUST", "words", ("a.py",), ("t/test_a.py::test_a", "t/test_b.py::test_b"))
A, B = ROW.tests


@pytest.mark.parametrize(
    ("outcomes", "ignored", "faults"),
    [
        ({A: {"passed"}, B: {"passed"}}, (), []),
        ({A: {"passed"}, B: {"skipped"}}, (), []),
        ({A: {"passed", "skipped"}, B: {"passed"}}, (), []),
        ({A: {"passed"}}, (), [f"HP-1: {B} was not run"]),
        ({A: {"passed"}}, ("t/test_b.py",), []),
        ({A: {"passed"}, B: {"passed", "failed"}}, (), [f"HP-1: {B} did not pass"]),
        ({A: {"skipped"}, B: {"skipped"}}, (), ["HP-1: none of its tests passed"]),
    ],
)
def test_what_a_run_did_not_show(
    outcomes: dict[str, set[str]], ignored: tuple[str, ...], faults: list[str]
) -> None:
    assert list(find_faults([ROW], outcomes, ignored)) == faults


@pytest.mark.parametrize(
    ("arguments", "is_red"),
    [((), True), (("-k", "test_one"), False), (("--ignore", "checks/test_two.py"), False)],
    ids=["the whole", "a selection", "what is run by itself"],
)
def test_a_whole_run_without_a_named_test_is_red(
    tmp_path: Path, arguments: tuple[str, ...], is_red: bool
) -> None:
    checks = tmp_path / "checks"
    checks.mkdir()
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = checks\n")
    (tmp_path / "rows.yaml").write_text(
        "rows:\n- {id: HP-1, level: MUST, words: w, met_in: [a], tests: ["
        '"checks/test_one.py::test_one", "checks/test_two.py::test_gone"]}\n'
    )
    (checks / "test_one.py").write_text("def test_one(): pass\n")
    (checks / "test_two.py").write_text("def test_two(): pass\n")
    (checks / "conftest.py").write_text(
        "from pathlib import Path\nfrom tests.requirements import Ledger\n"
        "def pytest_configure(config):\n"
        f"    rows = Path({str(tmp_path)!r}) / 'rows.yaml'\n"
        "    config.pluginmanager.register(Ledger(config, rows))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == is_red, done.stdout + done.stderr
    told = "HP-1: checks/test_two.py::test_gone was not run"
    assert (re.search(told, done.stdout) is not None) == is_red

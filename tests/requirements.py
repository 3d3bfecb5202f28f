"""Sees to it that the tests which contracts/requirements.yaml names were run, and passed.

A run of the whole suite that left one of them out is red, however green the others are; one that
was given a selection of tests claims nothing and is not judged.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[1] / "contracts/requirements.yaml"


@dataclass(frozen=True, slots=True)
class Row:
    """One requirement."""

    id: str
    level: str
    words: str
    met_in: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    pending: str | None = None


def read_rows(file: Path = FILE) -> list[Row]:
    """Every row, in the file's order."""
    rows: list[dict[str, Any]] = yaml.safe_load(file.read_text())["rows"]
    lists = ("met_in", "tests")
    return [Row(**row | {name: tuple(row.get(name, ())) for name in lists}) for row in rows]


def find_faults(
    rows: Collection[Row], outcomes: Mapping[str, set[str]], ignored: Collection[str] = ()
) -> Iterator[str]:
    """What the run did not show; ``outcomes`` has those of each test, whatever its parameters.

    Files that are ignored have a run of their own.
    """
    for row in rows:
        left_out = [test for test in row.tests if test.partition("::")[0] in ignored]
        told = [test for test in row.tests if test not in left_out]
        for test in told:
            if test not in outcomes:
                yield f"{row.id}: {test} was not run"
            elif outcomes[test] - {"passed", "skipped"}:
                yield f"{row.id}: {test} did not pass"
        is_shown = left_out or any("passed" in outcomes.get(test, ()) for test in told)
        if row.tests and not is_shown:
            yield f"{row.id}: none of its tests passed"


class Ledger:
    """A plugin that keeps the outcomes of a session, and judges them at its end."""

    def __init__(self, config: pytest.Config, file: Path = FILE) -> None:
        self._config = config
        self._file = file
        self._outcomes: defaultdict[str, set[str]] = defaultdict(set)
        self._faults: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how it went; a setup or a teardown only where it did not go well."""
        if report.when == "call" or not report.passed:
            self._outcomes[report.nodeid.partition("[")[0]].add(report.outcome)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Turn a whole run red that left out a named test."""
        if hasattr(session.config, "workerinput") or not self._is_whole(session):
            # One of several processes has seen a part only; the one above them has seen all.
            return
        root = self._config.rootpath
        ignored = self._config.getoption("ignore") or ()
        files = {Path(os.path.relpath(path, root)).as_posix() for path in ignored}
        self._faults += find_faults(read_rows(self._file), self._outcomes, files)
        if self._faults and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say which."""
        if self._faults:
            terminalreporter.section("requirements that this run did not show", red=True)
            for fault in self._faults:
                terminalreporter.write_line(fault)

    def _is_whole(self, session: pytest.Session) -> bool:
        option = self._config.option
        has_chosen = (
            *(option.keyword, option.markexpr, option.deselect, option.ignore_glob),
            *(option.collectonly, getattr(option, "lf", False), getattr(option, "stepwise", False)),
            *(session.shouldstop, session.shouldfail),
        )
        is_default = self._config.args_source is pytest.Config.ArgsSource.TESTPATHS
        return is_default and not any(has_chosen)

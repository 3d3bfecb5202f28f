"""Logging as a process has it: its level, its form, and a stderr that takes nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import datetime

import pytest

from orchd.errors import ConfigurationError
from orchd.logs.start import choose_level

TIMEOUT_S = 60.0
STAMPED = re.compile(r"(\S+) INFO orchd: ")

RAISE = """
try:
    raise ValueError("a\\n<6>forged\\x1b[2J")
except ValueError:
    log.exception("failed replica=%s", "chat-0")
"""


def run(code: str, level: str = "INFO", form: str = "text", is_journal: bool = False) -> str:
    """What a process logs to stderr."""
    script = f"""
import logging
from orchd.logs.start import logging_to_stderr
log = logging.getLogger("orchd")
with logging_to_stderr("{level}", "{form}"):
    {code.strip().replace(chr(10), chr(10) + "    ")}
"""
    reader, writer = os.pipe()
    found = os.fstat(writer)
    stream = f"{found.st_dev}:{found.st_ino}" if is_journal else "1:2"
    with os.fdopen(reader, "rb") as log:
        try:
            process = subprocess.run(
                [sys.executable, "-c", script],
                env={**os.environ, "JOURNAL_STREAM": stream},
                stderr=writer,
                timeout=TIMEOUT_S,
            )
        finally:
            os.close(writer)
        told = log.read().decode()
    assert process.returncode == 0, told
    return told


@pytest.mark.parametrize(
    ("asked", "variable", "level"),
    [
        (None, None, "INFO"),
        (None, "", "INFO"),
        (None, "Debug", "DEBUG"),
        ("error", "debug", "ERROR"),
        ("error", "loud", "ERROR"),
    ],
)
def test_the_command_line_wins_over_the_environment(
    asked: str | None, variable: str | None, level: str
) -> None:
    environ = {} if variable is None else {"ORCHD_LOG": variable}
    assert choose_level(asked, environ) == level


@pytest.mark.parametrize("variable", ["loud", "critical", "10"])
def test_a_level_that_is_none(variable: str) -> None:
    expected = f"ORCHD_LOG: no level is called {variable}; write debug, info, warning or error"
    with pytest.raises(ConfigurationError, match=re.escape(expected)):
        choose_level(None, {"ORCHD_LOG": variable})


def test_text_begins_with_the_local_time() -> None:
    told = run('log.info("a")')
    stamped = STAMPED.match(told)
    assert stamped is not None and told.endswith(": a\n")
    assert datetime.fromisoformat(stamped[1]).tzinfo is not None


def test_only_our_own_stderr_is_the_journal() -> None:
    assert run('log.warning("a")', is_journal=True) == "<4>orchd: a\n"
    assert STAMPED.match(run('log.info("a")', is_journal=False))


def test_a_traceback_keeps_its_priority_on_each_line() -> None:
    lines = run(RAISE, is_journal=True).splitlines()
    assert lines[0] == "<3>orchd: failed replica=chat-0"
    assert lines[1] == "<3>| Traceback (most recent call last):"
    assert lines[-2:] == ["<3>| ValueError: a", "<3>| <6>forged\\x1b[2J"]
    assert all(line.startswith("<3>| ") for line in lines[1:])


def test_json_is_an_object_a_line() -> None:
    code = 'log.info("a %s pool=%s pid=%d", "task=x", "chat", 5)\n' + RAISE.strip()
    first, second = map(json.loads, run(code, form="json", is_journal=True).splitlines())
    assert datetime.fromisoformat(first.pop("time")).utcoffset() is not None
    assert first == {
        "level": "info",
        "logger": "orchd",
        "message": "a task=x pool=chat pid=5",
        "pool": "chat",
        "pid": 5,
    }
    assert (second["level"], second["replica"]) == ("error", "chat-0")
    assert "ValueError: a\n<6>forged\x1b[2J\n" in second["traceback"]


def test_less_than_the_level_is_not_told() -> None:
    told = run('log.info("a")\nlog.warning("b")\nlog.error("c")', level="ERROR")
    assert told.count("\n") == 1 and told.endswith(": c\n")


def test_a_log_call_that_is_wrong_costs_its_own_line() -> None:
    first, *trace, last = run('log.info("%d", "x")\nlog.info("b")', is_journal=True).splitlines()
    assert re.fullmatch(r"<3>orchd: a log call failed at <string>:\d+", first)
    assert all(line.startswith("<3>| ") for line in trace)
    assert last == "<6>orchd: b"


def test_a_warning_of_pythons_is_a_line_of_the_log() -> None:
    lines = run('import warnings\nwarnings.warn("odd", UserWarning)', is_journal=True).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("<4>py.warnings: ") and "UserWarning: odd" in lines[0]


def test_the_end_leaves_logging_as_it_was() -> None:
    script = (
        "import logging, threading\n"
        "from orchd.logs.start import logging_to_stderr\n"
        "with logging_to_stderr('DEBUG', 'text'): assert logging.getLogger().level == 10\n"
        "root = logging.getLogger()\n"
        "assert (root.handlers, root.level, threading.active_count()) == ([], 30, 1)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=TIMEOUT_S)


def test_without_a_stderr_nothing_is_logged_anywhere() -> None:
    """The first file that is opened gets the number, and would get the log."""
    script = (
        "import logging, os, tempfile\n"
        "from orchd.logs.start import logging_to_stderr\n"
        "with tempfile.TemporaryFile() as file:\n"
        "    assert file.fileno() == 2, file.fileno()\n"
        "    with logging_to_stderr('INFO', 'text'): logging.error('a')\n"
        "    assert file.tell() == os.fstat(2).st_size == 0\n"
    )
    line = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, script]
    subprocess.run(line, check=True, timeout=TIMEOUT_S)

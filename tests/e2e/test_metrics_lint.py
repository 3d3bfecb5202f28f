"""The metrics lint, as users run it, on the page of a real daemon: idle, busy and in trouble."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.daemon import (
    TIMEOUT_S,
    TOKEN,
    RunningDaemon,
    read_events,
    run_daemon,
    write_config,
)
from tests.scrapes import scrape

LINT = Path(__file__).parents[2] / "tools/metrics_lint.py"


@pytest.fixture
def lint(tmp_path: Path) -> list[str]:
    """The command, up to the page."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    return [sys.executable, str(LINT), "--token-file", str(token)]


def run(*command: str, page: str | None = None) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"]}
    return subprocess.run(
        command, input=page, capture_output=True, text=True, timeout=TIMEOUT_S, env=environ
    )


def find_fault_by_lint(lint: list[str], daemon: RunningDaemon) -> str:
    done = run(*lint, f"http://127.0.0.1:{daemon.port}/metrics")
    return f"{done.returncode}{done.stdout}{done.stderr}"


def find_fault_by_promtool(lint: list[str], daemon: RunningDaemon) -> str:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH: pages were checked by our own lint alone")
    done = run(promtool, "check", "metrics", page=scrape(daemon).text)
    return f"{done.returncode}{done.stdout}{done.stderr}"


@pytest.mark.parametrize("find_fault", [find_fault_by_lint, find_fault_by_promtool])
def test_a_running_daemon_is_clean_at_every_moment(
    tmp_path: Path, lint: list[str], find_fault: Callable[[list[str], RunningDaemon], str]
) -> None:
    config = write_config(tmp_path, pool="queue = { interactive = 2 }", load_s=4)
    with run_daemon(config) as daemon:
        assert daemon.ask("POST", "/v1/tasks", {"prompt": "hello"}).status == 503
        assert find_fault(lint, daemon) == "0", "while it loads"
        daemon.hear("became ready")
        assert find_fault(lint, daemon) == "0", "before any task"
        read_events(daemon.submit("[tokens 5]"))
        running = daemon.submit("[tokens 3] [hang 3]")
        running.readline()
        statuses = [daemon.ask("POST", "/v1/tasks", {"prompt": "hello"}).status for _ in range(3)]
        assert statuses == [202, 202, 429]
        assert daemon.ask("POST", "/v1/tasks", {}).status == 400
        assert find_fault(lint, daemon) == "0", "while it is busy"
        os.kill(daemon.hear_engine(), signal.SIGKILL)
        assert read_events(running)[-1][1]["code"] == "WORKER_RESET"
        assert find_fault(lint, daemon) == "0", "after its engine has died"


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        ("# TYPE queue_depth gauge", "# TYPE queue_depth counter", "is a counter, not a gauge"),
        ('priority="batch"', 'prio="batch"', "lacks the label priority"),
        ("# HELP tokens_in_total", "# HELP tokens_p99_total", "is forbidden"),
        ('reason="INTERNAL"', 'reason="INTERNAL",tenant="a"', "the label tenant is forbidden"),
        ("queue_depth", "queue_deepness", "queue_depth: is not there"),
    ],
)
def test_a_fault_planted_in_its_page_is_found(
    fake_daemon: RunningDaemon, lint: list[str], old: str, new: str, finding: str
) -> None:
    page = scrape(fake_daemon).text
    assert old in page
    done = run(*lint, "-", page=page.replace(old, new))
    assert (done.returncode, done.stderr) == (1, "")
    assert finding in done.stdout


def test_who_may_not_ask_is_told_so(fake_daemon: RunningDaemon) -> None:
    done = run(sys.executable, str(LINT), f"http://127.0.0.1:{fake_daemon.port}/metrics")
    assert (done.returncode, done.stdout) == (2, "")
    assert "answered 401" in done.stderr

"""The real daemon's log: its forms, what it tells of tasks and logins, a stderr that is stuck."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.fakes.daemon import TIMEOUT_S, TOKEN, environment, write_config
from tests.fakes.engines import list_session

STAMPED = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d [A-Z]+ [\w.]+: ")
PROMPT = "a secret prompt"


class Asked(http.client.HTTPConnection):
    """A connection over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


class Daemon:
    """A daemon on a unix socket, whose stderr is what the test made."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path) -> None:
        self.process = process
        self._path = path

    def ask(
        self, method: str, target: str, body: object = None, token: str = TOKEN
    ) -> tuple[int, bytes]:
        """One request: the answer's status and whole body."""
        with contextlib.closing(Asked(self._path)) as connection:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request(method, target, None if body is None else json.dumps(body), headers)
            with connection.getresponse() as answer:
                return answer.status, answer.read()

    def until_ready(self) -> None:
        """By asking: what it logs is the test's own."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            with contextlib.suppress(OSError):
                if self.ask("GET", "/health")[0] == 200:
                    return
            assert self.process.poll() is None, "the daemon has ended"
            assert time.monotonic() < deadline_s, "the daemon is not ready"
            time.sleep(0.02)

    def run_task(self, prompt: str = PROMPT) -> tuple[str, dict[str, Any]]:
        """A task's id and its last event."""
        status, body = self.ask("POST", "/v1/tasks", {"prompt": prompt})
        assert status == 202, body
        task_id = json.loads(body)["task_id"]
        events = self.ask("GET", f"/v1/tasks/{task_id}/stream")[1].decode()
        return task_id, json.loads(events.rpartition("data: ")[2])

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


@contextlib.contextmanager
def running(
    folder: Path,
    stderr: int,
    *words: str,
    command: tuple[str, ...] = (),
    more: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Daemon]:
    """Start it, and see to it that nothing of it is left."""
    path = folder / "orchd.sock"
    config = write_config(folder, listen=f"unix:{path}")
    line = [*command, sys.executable, "-m", "orchd", "serve", "--config", str(config), *words]
    environ = environment(folder, **{"ORCHD_LOG": "info", **more})
    process = subprocess.Popen(line, env=environ, stdout=subprocess.DEVNULL, stderr=stderr)
    engine = 0
    try:
        daemon = Daemon(process, path)
        daemon.until_ready()
        health = json.loads(daemon.ask("GET", "/health")[1])
        engine = health["pools"][0]["replicas"][0]["pid"]
        yield daemon
    finally:
        process.kill()
        process.wait(TIMEOUT_S)
        for pid in list_session(engine) if engine else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        for descriptor in (reader, writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)


def run_whole_life(folder: Path, log: Path, *words: str, **more: str) -> list[str]:
    """One task, one guess at the token, a stop: the lines of the log."""
    with log.open("wb") as stderr, running(folder, stderr.fileno(), *words, more=more) as daemon:
        daemon.run_task()
        assert daemon.ask("GET", "/health", token="a-guess")[0] == 401
        assert daemon.stop() == 0
    return log.read_text().splitlines()


# -- forms -----------------------------------------------------------------------------------------


def test_text_is_stamped_and_the_flag_wins(tmp_path: Path) -> None:
    lines = run_whole_life(
        tmp_path, tmp_path / "log", "--log-level", "INFO", ORCHD_LOG="error", JOURNAL_STREAM="8:1"
    )
    assert all(STAMPED.match(line) for line in lines), lines
    assert any(line.endswith(" INFO orchd: stopped") for line in lines)


def test_the_journal_gets_priorities(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    found = log.stat()
    lines = run_whole_life(tmp_path, log, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
    assert all(re.match(r"<[3467]>[a-z]", line) for line in lines), lines
    assert "<6>orchd: stopped" in lines
    assert any(line.startswith("<4>orchd.api.refused_logins: refused a request") for line in lines)


def test_a_level_that_is_none_is_told_with_those_that_are(tmp_path: Path) -> None:
    for words, expected in (
        (("--log-level", "loud"), "invalid choice: 'loud' (choose from"),
        (("--log-format", "xml"), "invalid choice: 'xml' (choose from"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "orchd", "serve", *words],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert done.returncode == 2
        assert expected in done.stderr


# -- what is told ----------------------------------------------------------------------------------


def test_a_program_reads_tasks_and_refused_logins(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        words = ("--log-format", "json", "--log-level", "info")
        with running(tmp_path, stderr.fileno(), *words) as daemon:
            task_id, end = daemon.run_task(f"[tokens 9] [every 0.01] {PROMPT}")
            crashed_id, error = daemon.run_task(f"[crash 2] {PROMPT}")
            for n in range(20):
                assert daemon.ask("GET", "/health", token=f"a-guess-{n}")[0] == 401
            assert daemon.stop() == 0
    told = log.read_text()
    assert PROMPT not in told and "a-guess" not in told and TOKEN not in told
    lines = [json.loads(line) for line in told.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)

    ended = {line["task"]: line for line in lines if line["message"].startswith("ended a task")}
    assert set(ended) == {task_id, crashed_id}
    task = ended[task_id]
    assert (task["pool"], task["priority"], task["outcome"]) == ("chat", "interactive", "end")
    assert {key: task[key] for key in ("tokens_in", "tokens_out")} == {
        key: end[key] for key in ("tokens_in", "tokens_out")
    }
    assert task["finish"] == end["finish_reason"]
    assert task["rate"] == round(end["tokens_out"] * 1000 / end["decode_ms"], 1)
    assert 0 <= task["waited_s"] <= task["ttft_s"]
    assert task["replica"] == next(line["replica"] for line in lines if "became" in line["message"])
    crashed = ended[crashed_id]
    assert crashed["outcome"] == error["code"] == "WORKER_RESET"
    assert (crashed["tokens_out"], crashed["finish"], crashed["rate"]) == (2, None, None)

    refused = [line for line in lines if "without the right token" in line["message"]]
    assert [line["peer"] for line in refused] == [f"uid:{os.getuid()}"] * 2
    assert "refused 19 requests" in refused[1]["message"]


# -- a stderr that takes nothing -------------------------------------------------------------------


def test_a_full_disk_does_not_end_the_daemon(tmp_path: Path) -> None:
    with (
        Path("/dev/full").open("wb") as stderr,
        running(tmp_path, stderr.fileno(), "--log-level", "debug") as daemon,
    ):
        assert daemon.run_task()[1]["finish_reason"]
        assert daemon.stop() == 0


def test_a_full_disk_does_not_spoil_an_exit_code(tmp_path: Path) -> None:
    config = tmp_path / "orchd.toml"
    config.write_text("slots = 1\n")
    with Path("/dev/full").open("wb") as stderr:
        line = [sys.executable, "-m", "orchd", "serve", "--config", str(config)]
        done = subprocess.run(line, env=environment(tmp_path), stderr=stderr, timeout=TIMEOUT_S)
    assert done.returncode == 2


def test_a_reader_that_is_gone_does_not_end_the_daemon(tmp_path: Path) -> None:
    with pipe() as (reader, writer), running(tmp_path, writer) as daemon:
        os.close(writer)
        os.close(reader)
        assert daemon.run_task()[1]["finish_reason"]
        assert daemon.stop() == 0


def test_no_stderr_at_all_does_not_end_the_daemon(tmp_path: Path) -> None:
    """What it opens first gets the number of stderr."""
    command = ("sh", "-c", 'exec "$@" 2>&-', "sh")
    with running(tmp_path, subprocess.DEVNULL, command=command) as daemon:
        assert daemon.run_task()[1]["finish_reason"]
        assert daemon.stop() == 0


def test_a_stderr_that_nobody_reads_holds_up_nobody(tmp_path: Path) -> None:
    with pipe() as (reader, writer):
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while os.write(writer, bytes(65536)):
                pass
        with contextlib.suppress(BlockingIOError):
            while os.write(writer, bytes(1)):
                pass
        os.set_blocking(writer, True)
        with running(tmp_path, writer, "--log-level", "debug") as daemon:
            for _ in range(20):
                assert daemon.run_task()[1]["finish_reason"]
                assert daemon.ask("GET", "/health", token="a-guess")[0] == 401
                assert daemon.ask("GET", "/health")[0] == 200
            assert daemon.stop() == 0
        # It has never been read, and holds what the test filled it with.
        os.close(writer)
        with os.fdopen(os.dup(reader), "rb") as rest:
            assert set(rest.read()) == {0}

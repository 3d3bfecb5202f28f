"""The real daemon as a subprocess on the fake engine, and a client for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tests.contracts.seen import SeenConnection
from tests.fakes.engines import install_engine, list_session, write_model

TOKEN = "a-token-for-tests-only"
TIMEOUT_S = 30.0


def write_config(
    folder: Path,
    *,
    server: str = "",
    pool: str = "",
    listen: str = "127.0.0.1:0",
    slots: int = 1,
    **faults: object,
) -> Path:
    """A configuration of one pool on the fake engine; further keys as TOML lines."""
    env = ", ".join(f'FAKE_{name.upper()} = "{value}"' for name, value in faults.items())
    config = folder / "orchd.toml"
    config.write_text(f"""
[server]
listen = "{listen}"
{server}
[[pools]]
id = "chat"
engine = "llamacpp"
model = "{write_model(folder)}"
binary = "{install_engine(folder)}"
devices = ["cpu"]
slots = {slots}
env = {{ {env} }}
{pool}
""")
    return config


def environment(folder: Path, **more: str) -> dict[str, str]:
    """What the daemon is started with: no configuration or state of this user's."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(folder), "ORCHD_API_TOKEN": TOKEN, "ORCHD_LOG": "debug", **more}


class RunningDaemon:
    """A daemon that has said where it listens; its log is read as it comes."""

    def __init__(self, config: Path, more_environment: dict[str, str]) -> None:
        self.config = config
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "orchd", "serve", "--config", str(config)],
            env=environment(config.parent, **more_environment),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        self.port = 0
        self.answers = contextlib.ExitStack()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()

    @property
    def log(self) -> str:
        with self._news:
            return "\n".join(self.lines)

    def hear(self, text: str) -> str:
        """Wait for a line of the log that holds the text; returns the first."""

        def find() -> str | None:
            return next((line for line in self.lines if text in line), None)

        with self._news:
            assert self._news.wait_for(find, TIMEOUT_S), f"{text!r} not in the log:\n{self.lines}"
            line = find()
        assert line is not None
        return line

    def hear_engine(self) -> int:
        """Wait for the first engine to be started; returns its pid, which names its session."""
        return int(self.hear("started an engine").rpartition("pid=")[2].split()[0])

    def ask(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        """One request with the token; the answer's head, and its body to be read."""
        connection = SeenConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        # Closing the one alone would leave the socket open.
        self.answers.callback(connection.close)
        self.answers.callback(answer.close)
        return answer

    def submit(self, prompt: str) -> http.client.HTTPResponse:
        """Submit a task; returns its stream, its head read."""
        answer = self.ask("POST", "/v1/tasks", {"prompt": prompt, "max_tokens": 1000})
        assert answer.status == 202, answer.read()
        task = json.load(answer)
        return self.ask("GET", f"/v1/tasks/{task['task_id']}/stream")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Its exit code, once it and its log are at their end."""
        code = self.process.wait(TIMEOUT_S)
        self._reading.join(TIMEOUT_S)
        return code


class Readable(Protocol):
    """What can be read to its end."""

    def read(self) -> bytes: ...


def read_events(stream: Readable) -> list[tuple[str, Any]]:
    """Every event of a stream to its end: name and data."""
    events = []
    for block in stream.read().decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":")
        if fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


@contextlib.contextmanager
def run_daemon(config: Path, **more_environment: str) -> Iterator[RunningDaemon]:
    """Start it; at the end neither it nor an engine of its is left, whatever the test did."""
    daemon = RunningDaemon(config, more_environment)
    try:
        port = daemon.hear("listening on").rpartition(":")[2]
        daemon.port = int(port) if port.isdigit() else 0
        yield daemon
    finally:
        daemon.answers.close()
        daemon.process.kill()
        daemon.wait()
        assert daemon.process.stderr is not None
        daemon.process.stderr.close()
        for line in daemon.lines:
            if "started an engine" in line:
                for pid in list_session(int(line.rpartition("pid=")[2].split()[0])):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

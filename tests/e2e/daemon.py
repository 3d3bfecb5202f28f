"""A real daemon as a subprocess, and a foreign HTTP client to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, connect_sse
from loopback import find_engine_door, find_free_port

from tests.contracts.seen import see_events, see_httpx

TOKEN = "a-token-for-tests"
START_TIMEOUT_S = 90.0
EXIT_TIMEOUT_S = 40.0
IDLE_TIMEOUT_S = 5.0
SLOTS = 4


@dataclass(frozen=True, slots=True)
class Ended:
    """A task's whole story."""

    events: list[ServerSentEvent]

    @property
    def text(self) -> str:
        return "".join(json.loads(e.data)["t"] for e in self.events if e.event == "token")

    @property
    def last(self) -> dict[str, Any]:
        return dict(json.loads(self.events[-1].data))

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events]


@dataclass(slots=True)
class Daemon:
    """A running daemon."""

    process: subprocess.Popen[bytes]
    url: str
    config: Path
    environ: dict[str, str]
    log: Path
    client: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        hooks = {"response": [see_httpx]}
        self.client = httpx.Client(
            base_url=self.url, headers=headers, timeout=60.0, event_hooks=hooks
        )

    def health(self) -> dict[str, Any]:
        return dict(self.client.get("/health").json())

    def replica(self) -> dict[str, Any]:
        return dict(self.health()["pools"][0]["replicas"][0])

    def wait_for_replica(self, **wanted: object) -> dict[str, Any]:
        """Wait until the replica shows all of these, and return it."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            replica = self.replica()
            if wanted.items() <= replica.items():
                return replica
            time.sleep(0.05)
        raise AssertionError(f"{wanted} never came, but {self.replica()}")

    def submit(self, **task: object) -> str:
        answer = self.client.post("/v1/tasks", json=task)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def stream(self, task_id: str) -> Ended:
        with self.events(task_id) as events:
            return Ended(list(events))

    @contextlib.contextmanager
    def events(self, task_id: str) -> Iterator[Iterator[ServerSentEvent]]:
        with connect_sse(self.client, "GET", f"/v1/tasks/{task_id}/stream") as source:
            yield see_events(source.iter_sse())

    def run(self, **task: object) -> Ended:
        return self.stream(self.submit(**task))

    def engine(self) -> httpx.Client:
        """The engine behind the daemon, asked directly."""
        door = find_engine_door(self.wait_for_replica(state="ready")["pid"])
        return httpx.Client(
            base_url=f"http://127.0.0.1:{door.port}",
            headers={"Authorization": f"Bearer {door.key}"},
            timeout=60.0,
        )

    def wait_for_idle_engine(self) -> None:
        """Wait until the engine itself computes nothing; it sees a closed connection in its time,
        but long before a task of 1000 tokens would have ended."""
        deadline_s = time.monotonic() + IDLE_TIMEOUT_S
        with self.engine() as engine:
            while any(slot["is_processing"] for slot in engine.get("/slots").json()):
                assert time.monotonic() < deadline_s, "the engine works on for nobody"
                time.sleep(0.02)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(EXIT_TIMEOUT_S)


@contextlib.contextmanager
def running_daemon(
    folder: Path,
    model: Path,
    engine_path: str,
    abandon_after_s: float = 2,
    ctx: int = 1024,
    pool: str = "",
    env: str = 'OMP_WAIT_POLICY = "passive"',
) -> Iterator[Daemon]:
    """A daemon on that model whose engines are looked up on ``engine_path``; further keys of its
    pool as TOML lines. Its engines leave the cores to others while they wait, unless ``env`` says
    else."""
    keys = f"""
        engine = "llamacpp"
        model = "{model}"
        slots = {SLOTS}
        ctx = {ctx}
        env = {{ {env} }}
        {pool}
        """
    with daemon_of_pool(folder, keys, engine_path, abandon_after_s) as daemon:
        yield daemon


@contextlib.contextmanager
def daemon_of_pool(
    folder: Path, keys: str, engine_path: str, abandon_after_s: float
) -> Iterator[Daemon]:
    """A daemon of one pool on the CPU with these keys, once its replica is ready."""
    address = f"127.0.0.1:{find_free_port()}"
    config = folder / "orchd.toml"
    config.write_text(
        f"""
        [server]
        listen = "{address}"
        [tasks]
        abandon_after_s = {abandon_after_s}
        [[pools]]
        id = "demo"
        devices = ["cpu"]
        {keys}
        """
    )
    environ = {
        "HOME": str(folder),
        "PATH": f"{engine_path}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "ORCHD_API_TOKEN": TOKEN,
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchd", "serve", "--config", str(config)],
            stderr=output,
            env=environ,
        )
    try:
        _wait_until_listening(process, log)
        daemon = Daemon(process, f"http://{address}", config, environ, log)
        with daemon.client:
            daemon.wait_for_replica(state="ready")
            yield daemon
    finally:
        process.kill()
        process.wait()


def _wait_until_listening(process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        if "listening on " in log.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"the daemon did not come up:\n{log.read_text()}")

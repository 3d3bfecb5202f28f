"""A program in place of ``orchd``: serves one made-up answer as the contract says, or misbehaves.

STAND_IN names the misbehaviour. It leaves its process ids in the file that STAND_IN_PIDS names, so
that a test can see that they are gone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from orchd.config.model import AuthConfig
from orchd.config.token import discover_token

BEHAVIOUR = os.environ.get("STAND_IN", "")
TOKEN = discover_token(AuthConfig(), os.environ).value
WORDS = (" Paris", ",", " naïve", " 東京", "\n", "!")
KNOWN_TASKS: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    """Each request on a connection of its own."""

    looks = 0

    def do_GET(self) -> None:
        if not self.is_authorized():
            return
        if self.path == "/health":
            self.show_health()
        else:
            task_id = self.path.removeprefix("/v1/tasks/").removesuffix("/stream")
            if task_id in KNOWN_TASKS:
                self.stream()
            else:
                self.reply(404, {"code": "NOT_FOUND", "message": "no such", "engine": None})

    def do_POST(self) -> None:
        if not self.is_authorized():
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/cancel"):
            self.reply(204, None)
            return
        task = json.loads(body)
        assert set(task) <= {"task_id", "prompt", "max_tokens", "temperature"}
        task_id = task.get("task_id", "6f1c32cc-7a3e-4a62-9a85-2f6c1d1f2d11")
        KNOWN_TASKS.add(task_id)
        self.reply(202, {"task_id": task_id, "queue_position": 0, "backoff_ms": 0})

    def is_authorized(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            return True
        self.reply(401, {"code": "UNAUTHORIZED", "message": "no", "engine": None})
        return False

    def show_health(self) -> None:
        Handler.looks += 1
        is_ready = Handler.looks > 1 and BEHAVIOUR != "never ready"
        replica = {"replica_id": "demo-0", "state": "loading", "reason": "reading the model"}
        body = {"status": "ok" if is_ready else "starting", "pools": [{"replicas": [replica]}]}
        self.reply(200 if is_ready else 503, body)

    def stream(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.send_event("started", {"queue_position": 0, "predicted_start_ms": 0})
        for index, word in enumerate(WORDS):
            self.send_event("token", {"t": word, "i": index})
            if index == 1 and BEHAVIOUR == "stuck in the answer":
                threading.Event().wait()
            if index == 1 and BEHAVIOUR == "dies in the answer":
                print("the last words", flush=True)
                os._exit(3)
        if BEHAVIOUR == "error":
            fault = {"code": "WORKER_RESET", "message": "the engine died", "engine": "llamacpp"}
            self.send_event("error", fault)
        else:
            self.send_event("end", {"tokens_in": 5, "tokens_out": 6, "finish_reason": "stop"})

    def send_event(self, name: str, data: object) -> None:
        self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def reply(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        if body is not None:
            self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    assert sys.argv[1:3] == ["serve", "--config"]
    if BEHAVIOUR == "dies at once":
        print("first words\ncannot find the model", flush=True)
        sys.exit(1)
    if BEHAVIOUR == "ignores SIGTERM":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # An engine that would outlive a daemon killed outright, but for its group.
    engine = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    listen = tomllib.loads(Path(sys.argv[3]).read_text())["server"]["listen"]
    host, _, port = listen.partition(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    Path(os.environ["STAND_IN_PIDS"]).write_text(f"{os.getpid()} {engine.pid}")
    server.serve_forever()


if __name__ == "__main__":
    main()

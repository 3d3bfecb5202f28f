"""A stand-in for ``llama-server``: its flags, HTTP and faults, by the standard library alone.

A script, run as a process of its own. It loads nothing and makes up its tokens; how it misbehaves
is said by the environment or beside its model (``Faults``), by a signal (SIGUSR1: it aborts;
SIGUSR2: it accepts and answers nothing any more) or, for one request, by words in its prompt:

- ``[tokens N]``: so many tokens, at most ``n_predict``
- ``[every S]``: seconds between tokens
- ``[signed]``: each token has the name of its model's file in it
- ``[crash N]``: dies by SIGKILL after N tokens
- ``[exit N]``: exits with code 1 after N tokens, saying an error
- ``[hang N]``: says no more after N tokens, until the client leaves
- ``[deaf N]``: says no more after N tokens, and works on when the client has left
- ``[held]``: makes no token before the file of ``held_until`` is there
- ``[gate N]``: before each token but the first, waits for a byte in the FIFO named N
- ``[progress N]``: before its first token, tells N times of more prompt read, ``every`` apart
- ``[refuse]``: 400, as for a prompt beyond the context
- ``[status N]``: that HTTP status instead of an answer
- ``[garbage KIND]``: one of ``NO_HTTP`` instead of an answer
- ``[spoil KIND]`` and ``[after N]``: one of ``SPOILS`` after N tokens
- ``[flood N]``: logs N MiB of ``flood_of`` meanwhile, as fast as it can
- ``[once NAME]``: does as it should from the second time on

Invariant: at most ``--parallel`` generations run at once; others wait, as with the real one.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

# ``-I`` leaves our folder out of it.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes.journal import write_entry
from tests.fakes.llama_faults import (
    Faults,
    fail_at_load,
    flood,
    hear_signals,
    is_first,
    load,
    read_faults,
    say,
    start_children,
    take_vram,
    wait_before_bind,
)
from tests.fakes.llama_stream import NO_HTTP, SHAPES, SPOILS, Shape, Wishes, frame, generate, sse

DEFAULT_TOKENS = 8


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The flags that orchd's adapter gives, and those that its users do."""
    parser = argparse.ArgumentParser(prog="fake llama-server", allow_abbrev=False)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-c", "--ctx-size", type=int, default=4096)
    parser.add_argument("-np", "--parallel", type=int, default=4)
    parser.add_argument("--no-kv-unified", action="store_true")
    parser.add_argument("-b", "--batch-size", type=int)
    parser.add_argument("-ngl", "--n-gpu-layers")
    parser.add_argument("--cache-ram", type=int)
    parser.add_argument("--no-webui", action="store_true")
    parser.add_argument("-fa", "--flash-attn")
    return parser.parse_args(arguments)


class Server(ThreadingHTTPServer):
    """The engine: its options and faults, whether it has loaded, and its slots."""

    daemon_threads = True

    def __init__(
        self, options: argparse.Namespace, faults: Faults, key: str, deafened: threading.Event
    ) -> None:
        self.deafened = deafened
        """Set: nobody is answered any more."""
        self.options, self.faults, self.key = options, faults, faults.key or key
        self.has_loaded = False
        self.asked = count()
        """How often its health was."""
        self.slots = threading.Semaphore(options.parallel)
        self.busy: set[object] = set()
        """The generations that have a slot."""
        super().__init__((options.host, options.port), Handler)

    def load(self) -> None:
        """Take as long as asked, then be healthy."""
        load(self.faults)
        take_vram(self.faults, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self.has_loaded = not self.faults.never_healthy
        flood(self.faults.flood_bytes, self.faults)


class Handler(BaseHTTPRequestHandler):
    """One connection; closed after every answer, as llama.cpp does after a stream."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._stay_silent_if_deaf()
        if self._is_refused():
            return
        options, faults = self.server.options, self.server.faults
        model = faults.model or options.model
        slots = options.parallel
        if self.path == "/health":
            self._answer(200, {"status": "ok"})
        elif self.path == "/props":
            self._answer(200, {"model_path": model, "build_info": "fake-1", "total_slots": slots})
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": model, "object": "model"}]})
        elif self.path == "/slots":
            busy = len(self.server.busy)
            self._answer(200, [{"id": n, "is_processing": n < busy} for n in range(slots)])
        else:
            self._refuse(404, "File Not Found")

    def do_POST(self) -> None:
        self._stay_silent_if_deaf()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_refused():
            return
        shape = SHAPES.get(self.path)
        if shape is None:
            self._refuse(404, "File Not Found")
            return
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        wishes = self._read_wishes(prompt)
        if wishes.has("refuse"):
            self._refuse(400, "request exceeds the available context size")
        elif wishes.has("status"):
            self._refuse(int(wishes.number("status", 0)), "asked to refuse")
        elif wishes.has("garbage"):
            self.close_connection = True
            self.wfile.write(NO_HTTP[wishes.word("garbage")])
        else:
            self._generate(prompt, wishes, shape, body)

    def _read_wishes(self, prompt: str) -> Wishes:
        faults = self.server.faults
        wishes = Wishes(faults.prompt + prompt)
        if wishes.has("once") and not is_first(Path(faults.onces) / wishes.word("once")):
            return wishes.without_faults()
        return wishes

    def _generate(self, prompt: str, wishes: Wishes, shape: Shape, body: dict[str, object]) -> None:
        wanted = int(wishes.number("tokens", DEFAULT_TOKENS))
        bound = body.get(shape.bound)
        is_cut = isinstance(bound, int) and bound <= wanted
        made = bound if isinstance(bound, int) and is_cut else wanted
        with self.server.slots:
            self.server.busy.add(wishes)
            write_entry(self.server.faults.journal, f"begin {prompt}")
            try:
                faults, deafened = self.server.faults, self.server.deafened
                tokens = generate(wishes, made, self._is_wanted, faults, deafened)
                if wishes.has("signed"):
                    name = Path(self.server.options.model).stem
                    tokens = (f"{name}:{token}" for token in tokens)
                if self._stream(tokens, shape, is_cut, wishes, bool(body.get("return_progress"))):
                    write_entry(self.server.faults.journal, f"end {prompt} {made}")
            finally:
                self.server.busy.remove(wishes)

    def _is_wanted(self) -> bool:
        try:
            self.connection.settimeout(0.02)
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return True
        finally:
            self.connection.settimeout(None)

    def _stream(
        self, tokens: Iterator[str], shape: Shape, is_cut: bool, wishes: Wishes, is_told: bool
    ) -> bool:
        """Whether it came to its end."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        made = 0
        try:
            self._read_prompt(wishes, shape, is_told)
            for made, token in enumerate(tokens, 1):
                self.wfile.write(frame(sse(shape.token(made - 1, token))))
            if wishes.has("spoil"):
                self._spoil(wishes.word("spoil"))
                return False
            for last in shape.end(made, is_cut):
                self.wfile.write(frame(sse(last)))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            say("cancelled: the client is gone")
            return False
        return True

    def _read_prompt(self, wishes: Wishes, shape: Shape, is_told: bool) -> None:
        """No token, but progress, told to who has asked for it."""
        times = int(wishes.number("progress", 0))
        for n in range(times):
            if is_told:
                self.wfile.write(frame(sse(shape.progress(n + 1, times))))
            time.sleep(wishes.number("every", 0))

    def _spoil(self, kind: str) -> None:
        for data in SPOILS[kind]:
            self.wfile.write(data)
            while not data and self._is_wanted():
                pass

    def _stay_silent_if_deaf(self) -> None:
        if self.server.deafened.is_set():
            threading.Event().wait()

    def _is_refused(self) -> bool:
        faults = self.server.faults
        has_key = self.headers["Authorization"] == f"Bearer {self.server.key}"
        if not self.server.has_loaded:
            more = f" {next(self.server.asked)}" if faults.restless else ""
            self._refuse(503, f"Loading model{more}")
        elif self.path != "/health" and not has_key and not faults.any_key:
            self._refuse(401, "Invalid API Key")
        else:
            return False
        return True

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, {"error": {"code": status, "message": message}})

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged: a stalled load must be silent."""


def main() -> None:
    options = parse_options(sys.argv[1:])
    faults = read_faults(dict(os.environ), options.model)
    deafened = threading.Event()
    hear_signals(faults, deafened)
    start_children(faults)
    fail_at_load(options, faults)
    wait_before_bind(options.port, faults)
    try:
        server = Server(options, faults, os.environ["LLAMA_API_KEY"], deafened)
    except OSError:
        sys.exit("error: couldn't bind HTTP server socket")
    threading.Thread(target=server.load, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()

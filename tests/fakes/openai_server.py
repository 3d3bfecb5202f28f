"""A stand-in for a server of OpenAI's API, by the standard library alone; makes up its tokens.

A script, run as a process of its own. Its flags say which of the many servers it is like; words in
a prompt say what is to happen to one request:

- ``[tokens N]``: so many tokens, at most ``max_tokens``
- ``[refuse]``: 400, as for a prompt beyond the context
- ``[error N]``: an error of the engine's after N tokens; ``[blame N]``: one of the task's
- ``[abort N]``: after N tokens, the end of an answer that was given up
- ``[cut N]``: after N tokens, ``[DONE]`` without a reason
- ``[break N]``: after N tokens, the end of the body
- ``[hang N]``: says no more after N tokens, until the client leaves
- ``[page]``: a page with the status of a success
- ``[odd N]``: after N tokens, an error in half a character
- ``[halves]``: its last token is a character in two events
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# ``-I`` leaves our folder out of it.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes.llama_stream import Wishes, frame, sse

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
HALVES = "\ud83e", "\udd99"


def parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fake openai server", allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="fake")
    parser.add_argument("--lists", action="append", help="a model listed, instead of --model")
    parser.add_argument("--api-key", default=os.environ.get("FAKE_KEY"))
    parser.add_argument("--lacks", default="", help="an endpoint that it has not")
    parser.add_argument("--loads-s", type=float, default=0)
    parser.add_argument("--lists-at-once", action="store_true", help="also while it loads")
    parser.add_argument("--usage", choices=["none", "last", "each"], default="last")
    parser.add_argument("--errors", choices=["nested", "flat", "tgi", "fastapi"], default="nested")
    parser.add_argument("--never-done", action="store_true")
    parser.add_argument("--never-streams", action="store_true")
    parser.add_argument("--version-at", default="/version")
    return parser.parse_args(arguments)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.loaded_s = time.monotonic() + options.loads_s
        super().__init__((options.host, options.port), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        options = self.server.options
        if self._is_refused():
            return
        if self.path == options.lacks:
            self._refuse(404, "Not Found")
        elif self.path == "/v1/models":
            models = [{"id": name, "object": "model"} for name in options.lists or [options.model]]
            self._answer(200, {"object": "list", "data": models})
        elif self.path == options.version_at:
            self._answer(200, {"version": "1.2.fake"})
        else:
            self._refuse(404, "Not Found")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_refused():
            return
        if self.path == self.server.options.lacks or self.path not in (CHAT, COMPLETION):
            self._refuse(404, "Not Found")
            return
        assert body["stream"] is True and body["stream_options"] == {"include_usage": True}
        prompt = body["prompt"] if self.path == COMPLETION else body["messages"][-1]["content"]
        wishes = Wishes(prompt)
        if wishes.has("refuse"):
            self._refuse(400, "maximum context length is 512 tokens")
            return
        if self.server.options.never_streams:
            self._answer(200, self._event("t0", reason="stop"))
            return
        if wishes.has("page"):
            self._answer(200, "<html>")
            return
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for said in self._say(wishes, body.get("max_tokens")):
                self.wfile.write(frame(sse(said if isinstance(said, str) else json.dumps(said))))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            print("cancelled: the client is gone", flush=True)

    def _say(self, wishes: Wishes, bound: int | None) -> Iterator[Any]:
        """The events of one answer."""
        options = self.server.options
        wanted = int(wishes.number("tokens", 8))
        count = wanted if bound is None else min(wanted, bound)
        if self.path == CHAT:
            yield self._event("", role="assistant")
        for n in range(count + 1):
            for name in ("error", "blame", "odd", "abort", "cut", "break", "hang"):
                if wishes.has(name) and n == wishes.number(name, 0):
                    yield from self._fail(name)
                    return
            if n < count:
                yield self._event(f"t{n} ", made=n + 1)
        for half in HALVES if wishes.has("halves") else ():
            yield self._event(half, made=count)
        yield self._event("", reason="length" if count < wanted else "stop", made=count)
        if options.usage != "none":
            yield {"choices": [], "usage": _usage(count)}
        if not options.never_done:
            yield "[DONE]"

    def _fail(self, name: str) -> Iterator[Any]:
        if name in ("error", "blame"):
            code = 500 if name == "error" else 400
            yield _error(self.server.options.errors, code, f"asked to {name}")
        elif name == "odd":
            yield _error(self.server.options.errors, 500, f"asked to {HALVES[0]}")
        elif name == "abort":
            yield self._event("", reason="abort")
        elif name == "hang":
            while self._is_wanted():
                pass
            raise ConnectionResetError
        if name != "break":
            yield "[DONE]"

    def _event(
        self, text: str, reason: str | None = None, made: int = 0, **delta: str
    ) -> dict[str, Any]:
        said = {"delta": {**delta, "content": text}} if self.path == CHAT else {"text": text}
        told = {"choices": [{"index": 0, **said, "finish_reason": reason}]}
        return told | ({"usage": _usage(made)} if self.server.options.usage == "each" else {})

    def _is_wanted(self) -> bool:
        try:
            self.connection.settimeout(0.02)
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return True
        finally:
            self.connection.settimeout(None)

    def _is_refused(self) -> bool:
        key = self.server.options.api_key
        is_listing = self.command == "GET" and self.server.options.lists_at_once
        if time.monotonic() < self.server.loaded_s and not is_listing:
            self._refuse(503, "Loading")
        elif key is not None and self.headers["Authorization"] != f"Bearer {key}":
            self._refuse(401, "Unauthorized")
        else:
            return False
        return True

    def _refuse(self, status: int, message: str) -> None:
        self._answer(status, _error(self.server.options.errors, status, message))

    def _answer(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Requests are not logged."""


def _usage(count: int) -> dict[str, int]:
    return {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}


def _error(shape: str, status: int, message: str) -> dict[str, Any]:
    kind = "validation" if status < 500 else "generation"
    shapes: dict[str, dict[str, Any]] = {
        "nested": {"error": {"message": message, "type": "x", "param": None, "code": status}},
        "flat": {"object": "error", "message": message, "type": "x", "code": status},
        "tgi": {"error": message, "error_type": kind},
        "fastapi": {"detail": [{"loc": ["body"], "msg": message}], "status_code": status},
    }
    return shapes[shape]


if __name__ == "__main__":
    Server(parse_options(sys.argv[1:])).serve_forever()

"""A stand-in for ``llama-server``: its flags, HTTP and faults, by the standard library alone.

A script, run as a process of its own. It loads nothing and makes up its tokens; how it misbehaves
is said by the environment (``Faults``) or, for one request, by words in its prompt:

- ``[tokens N]``: so many tokens, at most ``n_predict``
- ``[every S]``: seconds between tokens
- ``[crash N]``: dies by SIGKILL after N tokens
- ``[exit N]``: exits with code 1 after N tokens, saying an error
- ``[hang N]``: says no more after N tokens, until the client leaves
- ``[deaf N]``: says no more after N tokens, and works on when the client has left
- ``[held]``: makes no token before the file of ``held_until`` is there
- ``[gate N]``: before each token but the first, waits for a byte in the FIFO named N
- ``[progress N]``: before its first token, tells N times of more prompt read, ``every`` apart
- ``[refuse]``: 400, as for a prompt beyond the context

Invariant: at most ``--parallel`` generations run at once; others wait, as with the real one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DEFAULT_TOKENS = 8


@dataclass(frozen=True)
class Faults:
    """What goes wrong; each field is read from ``FAKE_`` and its name in capitals."""

    exit_at_load: str = ""
    """Say this and exit with code 1 instead of loading."""
    exit_once: str = ""
    """A path: the same, but only while no such file is there; it is made on the way."""
    exit_unended: str = ""
    """The same without a line's end, and by SIGABRT."""
    load_s: float = 0.0
    load_lines: int = 0
    """Lines said while loading, evenly spread."""
    never_healthy: int = 0
    model: str = ""
    """Claim to serve this one."""
    key: str = ""
    """Accept this key only."""
    prompt: str = ""
    """Put these words before every prompt."""
    ignore_sigterm: int = 0
    grandchild: int = 0
    """Start a process that ignores SIGTERM and holds the log open."""
    held_until: str = ""
    """A path: no token is made for a prompt with ``[held]`` before a file is there."""
    journal: str = ""
    """A path: a line for each generation that begins, and for each that ends well."""
    flood_bytes: int = 0
    """Say so much, as fast as it can, once it is ready."""
    gates: str = ""
    """The folder with the FIFOs of ``[gate N]``."""
    vram_folder: str = ""
    """The fake NVML's, to take memory of the card that CUDA_VISIBLE_DEVICES names."""
    vram_mib: int = 0
    vram_lag_ms: int = 0
    """How long the driver keeps it once this process is gone."""
    cpu_once: str = ""
    """A path: take none, as on the CPU, while no such file is there; it is made on the way."""


def read_faults(environ: dict[str, str]) -> Faults:
    """The faults that the environment asks for."""
    plain, given = Faults(), {}
    for field in fields(Faults):
        if (text := environ.get(f"FAKE_{field.name.upper()}")) is not None:
            given[field.name] = type(getattr(plain, field.name))(text)
    return replace(plain, **given)


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

    def __init__(self, options: argparse.Namespace, faults: Faults, key: str) -> None:
        self.options, self.faults, self.key = options, faults, faults.key or key
        self.has_loaded = False
        self.slots = threading.Semaphore(options.parallel)
        self.busy: set[object] = set()
        """The generations that have a slot."""
        super().__init__((options.host, options.port), Handler)

    def load(self) -> None:
        """Take as long as asked, then be healthy."""
        for n in range(self.faults.load_lines):
            say(f"load_tensors: {n} of {self.faults.load_lines}")
            time.sleep(self.faults.load_s / self.faults.load_lines)
        if not self.faults.load_lines:
            time.sleep(self.faults.load_s)
        take_vram(self.faults, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
        self.has_loaded = not self.faults.never_healthy
        said_bytes = 0
        while said_bytes < self.faults.flood_bytes:
            said_bytes += os.write(2, b"flood flood\n" * 5_000)


class Handler(BaseHTTPRequestHandler):
    """One connection; closed after every answer, as llama.cpp does after a stream."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self._is_refused():
            return
        if self.path == "/health":
            self._answer(200, {"status": "ok"})
        elif self.path == "/props":
            options, faults = self.server.options, self.server.faults
            model = faults.model or options.model
            props = {"model_path": model, "build_info": "fake-1", "total_slots": options.parallel}
            self._answer(200, props)
        elif self.path == "/slots":
            busy = len(self.server.busy)
            slots = range(self.server.options.parallel)
            self._answer(200, [{"id": n, "is_processing": n < busy} for n in slots])
        else:
            self._refuse(404, "File Not Found")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_refused():
            return
        is_chat = self.path == "/v1/chat/completions"
        prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
        wishes = Wishes(self.server.faults.prompt + prompt)
        if wishes.has("refuse"):
            self._refuse(400, "request exceeds the available context size")
            return
        wanted = int(wishes.number("tokens", DEFAULT_TOKENS))
        bound = body.get("max_tokens" if is_chat else "n_predict", wanted)
        with self.server.slots:
            self.server.busy.add(wishes)
            self._note(f"begin {prompt}")
            try:
                tokens = generate(wishes, min(wanted, bound), self._is_wanted, self.server.faults)
                is_told = bool(body.get("return_progress"))
                tokens = itertools.chain(self._read(wishes, is_told, is_chat), tokens)
                if self._stream(tokens, is_chat, bound <= wanted):
                    self._note(f"end {prompt} {min(wanted, bound)}")
            finally:
                self.server.busy.remove(wishes)

    def _note(self, line: str) -> None:
        if self.server.faults.journal:
            with Path(self.server.faults.journal).open("a") as journal:
                journal.write(f"{line}\n")

    def _is_wanted(self) -> bool:
        try:
            self.connection.settimeout(0.02)
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            return True
        finally:
            self.connection.settimeout(None)

    def _stream(self, tokens: Iterator[str], is_chat: bool, is_cut: bool) -> bool:
        """Whether it came to its end."""
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            count = 0
            for token in tokens:
                count += 1
                self._send(chat_token(token) if is_chat else completion_token(token))
            for last in (chat_end if is_chat else completion_end)(count, is_cut):
                self._send(last)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            say("cancelled: the client is gone")
            return False
        return True

    def _read(self, wishes: Wishes, is_told: bool, is_chat: bool) -> Iterator[str]:
        """No token, but progress at the prompt, told to who has asked for it."""
        times = int(wishes.number("progress", 0))
        for n in range(times):
            told = {"total": times, "cache": 0, "processed": n + 1, "time_ms": 1}
            said = json.loads((chat_token if is_chat else completion_token)(""))
            if is_chat:
                said["choices"][0]["delta"]["content"] = None
            if is_told:
                self._send(json.dumps({**said, "prompt_progress": told}))
            time.sleep(wishes.number("every", 0))
        yield from ()

    def _send(self, event: str) -> None:
        data = f"data: {event}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _is_refused(self) -> bool:
        if not self.server.has_loaded:
            self._refuse(503, "Loading model")
        elif (
            self.path != "/health" and self.headers["Authorization"] != f"Bearer {self.server.key}"
        ):
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


class Wishes:
    """What the words in brackets of a prompt ask for."""

    def __init__(self, prompt: str) -> None:
        self._found = dict(re.findall(r"\[(\w+) ?([\d.]*)\]", prompt))

    def has(self, name: str) -> bool:
        return name in self._found

    def number(self, name: str, default: float) -> float:
        return float(self._found.get(name) or default)


def generate(
    wishes: Wishes, count: int, is_wanted: Callable[[], bool], faults: Faults
) -> Iterator[str]:
    """The tokens, and on the way whatever fault is wished for."""
    every_s = wishes.number("every", 0)
    while wishes.has("held") and not Path(faults.held_until).exists():
        if not is_wanted():
            raise ConnectionResetError
    for n in range(count + 1):
        if wishes.has("crash") and n == wishes.number("crash", 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if wishes.has("exit") and n == wishes.number("exit", 0):
            say("error: asked to exit")
            os._exit(1)
        if wishes.has("hang") and n == wishes.number("hang", 0):
            while is_wanted():
                pass
            raise ConnectionResetError
        if wishes.has("deaf") and n == wishes.number("deaf", 0):
            threading.Event().wait()
        if n and wishes.has("gate"):
            with (Path(faults.gates) / f"{wishes.number('gate', 0):g}").open(
                "rb", buffering=0
            ) as gate:
                gate.read(1)
        if n < count:
            yield f"t{n} "
            time.sleep(every_s)


def completion_token(text: str) -> str:
    return json.dumps({"index": 0, "content": text, "tokens": [7], "stop": False})


def completion_end(count: int, is_cut: bool) -> list[str]:
    end = {
        "content": "",
        "stop": True,
        "stop_type": "limit" if is_cut else "eos",
        "tokens_predicted": count,
        "tokens_evaluated": 5,
        "timings": {"predicted_ms": 1.5},
    }
    return [json.dumps(end)]


def chat_token(text: str) -> str:
    return json.dumps(
        {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}
    )


def chat_end(count: int, is_cut: bool) -> list[str]:
    reason = "length" if is_cut else "stop"
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
    usage = {"prompt_tokens": 5, "completion_tokens": count}
    return [json.dumps(finish), json.dumps({"choices": [], "usage": usage}), "[DONE]"]


def say(line: str) -> None:
    """Log one line in one write, so that threads do not tear it."""
    os.write(2, line.encode() + b"\n")


def take_vram(faults: Faults, card: str) -> None:
    """Hold memory of a card for as long as this process lives, and the lag after it."""
    if not faults.vram_folder or not card:
        return
    if faults.cpu_once and not Path(faults.cpu_once).exists():
        Path(faults.cpu_once).touch()
        return
    draft = Path(faults.vram_folder) / f"draft-{os.getpid()}"
    draft.write_text(f"{card} {faults.vram_mib} {faults.vram_lag_ms}")
    draft.rename(Path(faults.vram_folder) / "taken" / str(os.getpid()))


def fail_at_load(options: argparse.Namespace, faults: Faults) -> None:
    """Exit as the real one does when it cannot load; returns where nothing stands against it."""
    if faults.exit_at_load:
        sys.exit(faults.exit_at_load)
    if faults.exit_once and not Path(faults.exit_once).exists():
        Path(faults.exit_once).touch()
        sys.exit("error: failed once")
    if faults.exit_unended:
        os.write(2, faults.exit_unended.encode())
        os.abort()
    if not Path(options.model).is_file():
        sys.exit(f"error: failed to load model, '{options.model}'")


def main() -> None:
    options, faults = parse_options(sys.argv[1:]), read_faults(dict(os.environ))
    if faults.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if faults.grandchild:
        program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
        subprocess.Popen([sys.executable, "-I", "-S", "-c", program])
    fail_at_load(options, faults)
    try:
        server = Server(options, faults, os.environ["LLAMA_API_KEY"])
    except OSError:
        sys.exit("error: couldn't bind HTTP server socket")
    threading.Thread(target=server.load, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()

"""A stand-in for ``vllm``: its flags, its processes, its HTTP, by the standard library alone.

A script, run as a process of its own. Like the real one it has two processes: the server, and
``VLLM::EngineCore``, which holds the card's memory and lives on when the server is killed. Nobody
is answered before it has loaded; how it misbehaves is said by the environment (``FAKE_`` and the
name in capitals) or, for one request, by words in its prompt, of which it knows those of
``llama_stream.generate`` and ``[refuse]``, ``[validation]``, ``[midway]``.

It checks what the real one checks: that the card has as much free as it was told to take, that the
API key comes, that a prompt and its answer fit into the context.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# ``-I`` leaves our folder out of it.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fakes.llama_faults import Faults, is_first
from tests.fakes.llama_stream import SHAPES, Shape, Wishes, frame, generate, sse

VERSION = "0.30.0"
DEFAULT_TOKENS = 8
_PROMPT_TOKENS = 5
_PHASES = (
    "(APIServer pid=1) INFO 05-30 07:46:00 [api_server.py:592] vLLM API server version 0.30.0",
    "(EngineCore pid=2) INFO 05-30 07:46:01 [gpu_model_runner.py:10] Starting to load model m...",
    "Loading safetensors checkpoint shards:  50% Completed | 1/2 [00:01<00:01,  1.00s/it]",
    "(EngineCore pid=2) INFO 05-30 07:46:03 [default_loader.py:267] Loading weights took 2 seconds",
    "(EngineCore pid=2) INFO 05-30 07:46:04 [backends.py:1] Dynamo bytecode transform time: 1.0 s",
    "(EngineCore pid=2) INFO 05-30 07:46:09 [monitor.py:34] torch.compile took 6.00 s in total",
    "(EngineCore pid=2) INFO 05-30 07:46:10 [gpu_worker.py:437] Available KV cache memory: 5.1 GiB",
    "Capturing CUDA graphs (decode, FULL):  60%|######    | 3/5 [00:00<00:00, 20.00it/s]",
)
"""What is said while loading, in this order."""


def parse_options(arguments: list[str]) -> argparse.Namespace:
    """The flags that orchd's adapter gives, and those that its users do."""
    parser = argparse.ArgumentParser(prog="fake vllm")
    serve = parser.add_subparsers(required=True).add_parser("serve")
    serve.add_argument("model")
    serve.add_argument("--served-model-name", required=True)
    serve.add_argument("--host", required=True)
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument("--allowed-origins", type=json.loads, default=["*"])
    serve.add_argument("--max-model-len", type=int, required=True)
    serve.add_argument("--max-num-seqs", type=int, required=True)
    serve.add_argument("--max-num-batched-tokens", type=int)
    serve.add_argument("--gpu-memory-utilization", type=float, default=0.92)
    serve.add_argument("--enable-log-requests", action=argparse.BooleanOptionalAction)
    serve.add_argument("--disable-uvicorn-access-log", action="store_true")
    serve.add_argument("--disable-fastapi-docs", action="store_true")
    serve.add_argument("--enforce-eager", action="store_true")
    return parser.parse_args(arguments)


def fault(name: str, default: str = "") -> str:
    return os.environ.get(f"FAKE_{name.upper()}", default)


def say(line: str) -> None:
    os.write(2, line.encode() + b"\n")


def note(line: str) -> None:
    """Into the journal, where there is one: each request, and each that is aborted."""
    if journal := fault("journal"):
        with Path(journal).open("a") as file:
            file.write(f"{line}\n")


# -- the engine's own process --------------------------------------------------------------------


def rename(name: str) -> None:
    """As setproctitle does, as far as a script can: prctl(PR_SET_NAME)."""
    ctypes.CDLL(None).prctl(15, name.encode()[:15])


def run_core(options: argparse.Namespace, ready: int) -> None:
    """Load, tell the server, and live until killed; SIGTERM alone ends it as it ends the server."""
    rename("VLLM::EngineCore")
    pace_s = float(fault("load_s", "0")) / len(_PHASES)
    try:
        take_memory(options)
        for phase in _PHASES:
            say(phase)
            wait_while(fault("holds_at"), phase)
            if fault("dies_at") and fault("dies_at") in phase:
                raise ValueError(fault("dies_of", "No available memory for the cache blocks."))
            time.sleep(pace_s)
    except ValueError as error:
        for prefix in ("ERROR 05-30 07:46:10 [core.py:1100] ", ""):
            say(f"(EngineCore pid=2) {prefix}Traceback (most recent call last):")
            say(f"(EngineCore pid=2) {prefix}ValueError: {error}")
        os._exit(1)
    os.write(ready, b"1")
    while True:
        signal.pause()


def wait_while(spec: str, phase: str) -> None:
    """``TEXT@FILE``: at the phase that holds the text, stand still while the file is there."""
    text, _, path = spec.partition("@")
    while text and text in phase and Path(path).exists():
        time.sleep(0.02)


def take_memory(options: argparse.Namespace) -> None:
    """The share of the card, which has to be free; the context comes on top."""
    folder, device = fault("vram_folder"), os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if not folder or not device:
        return
    total_mib, free_mib = read_card(Path(folder), device)
    context_mib = int(fault("context_mib", "300"))
    wanted_mib = int(options.gpu_memory_utilization * total_mib)
    if free_mib - context_mib < wanted_mib:
        raise ValueError(
            f"Free memory on device cuda:0 ({(free_mib - context_mib) / 1024:.2f}/"
            f"{total_mib / 1024:.2f} GiB) on startup is less than desired GPU memory utilization "
            f"({options.gpu_memory_utilization}, {wanted_mib / 1024:.2f} GiB)."
        )
    draft = Path(folder) / f"draft-{os.getpid()}"
    draft.write_text(f"{device} {wanted_mib + context_mib} {fault('vram_lag_ms', '0')}")
    draft.rename(Path(folder) / "taken" / str(os.getpid()))


def read_card(folder: Path, uuid: str) -> tuple[int, int]:
    """What a card of the fake NVML has in all, and what of it is free, in MiB."""
    total = used = 0
    is_it = False
    for line in (folder / "cards").read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == "uuid":
            is_it = value == uuid
        elif is_it and key == "total_mib":
            total = int(value)
        elif is_it and key == "used_mib":
            used = int(value)
    for entry in (folder / "taken").iterdir():
        with contextlib.suppress(OSError, ValueError):
            card, mib, _ = entry.read_text().split()
            os.kill(int(entry.name), 0)
            used += int(mib) if card == uuid else 0
    return total, total - used


# -- the server ------------------------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """What answers, once the core has loaded."""

    daemon_threads = True

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.key = os.environ["VLLM_API_KEY"]
        self.running: set[object] = set()
        self.told_running = 0
        """As its metrics have it: set anew only when there is work."""
        self.slots = threading.Semaphore(options.max_num_seqs)
        super().__init__((options.host, options.port), Handler)


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open between requests."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/v1") and self._is_stranger():
            return
        match self.path:
            case "/health":
                self._answer(200, b"", "text/plain")
            case "/version":
                self._tell(200, {"version": VERSION})
            case "/v1/models":
                options = self.server.options
                card = {"id": options.served_model_name, "root": options.model, "object": "model"}
                self._tell(200, {"object": "list", "data": [card]})
            case "/metrics":
                count = self.server.told_running
                text = (
                    '# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{engine="0"}'
                )
                self._answer(200, f"{text} {count:.1f}\n".encode(), "text/plain")
            case _:
                self._tell(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_stranger():
            return
        shape = SHAPES.get(self.path) if self.path.startswith("/v1") else None
        if shape is None:
            self._tell(404, {"detail": "Not Found"})
            return
        prompt = str(body.get("prompt") or body["messages"][-1]["content"])
        note(json.dumps(body))
        wishes = Wishes(prompt)
        if not self._refuses(body, wishes):
            self._generate(shape, wishes, body)

    def _refuses(self, body: dict[str, Any], wishes: Wishes) -> bool:
        """Whether it is one that vLLM does not take, which is then told."""
        most = self.server.options.max_model_len
        asked = body.get("max_tokens") or 0
        if body.get("model") != self.server.options.served_model_name:
            message = f"The model `{body.get('model')}` does not exist."
            self._fail(404, message, "NotFoundError")
        elif wishes.has("validation"):
            detail = [{"loc": ["body", "top_p"], "msg": "Input should be less than 1", "input": 7}]
            self._tell(422, {"detail": detail})
        elif wishes.has("refuse") or asked > most:
            message = (
                f"This model's maximum context length is {most} tokens. However, you requested "
                f"{asked} output tokens and your prompt contains at least {_PROMPT_TOKENS} input "
                "tokens."
            )
            self._fail(400, message, "BadRequestError")
        else:
            return False
        return True

    def _generate(self, shape: Shape, wishes: Wishes, body: dict[str, Any]) -> None:
        asked = body.get("max_tokens", 16)
        count = int(wishes.number("tokens", DEFAULT_TOKENS))
        count = count if asked is None else min(count, asked)
        me = object()
        with self.server.slots:
            self.server.running.add(me)
            self.server.told_running = len(self.server.running)
            try:
                self._stream(shape, wishes, count, is_cut=count == asked)
            except OSError:
                # Its client has left: aborted, and the figures are not set again.
                self.server.running.discard(me)
                note("aborted")
                return
            self.server.running.discard(me)
            self.server.told_running = len(self.server.running)

    def _stream(self, shape: Shape, wishes: Wishes, count: int, *, is_cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        tokens = generate(wishes, count, self._is_wanted, Faults(), threading.Event())
        for n, token in enumerate(tokens):
            if wishes.has("midway") and n == 2:
                error = {"message": "EngineCore encountered an issue.", "code": 500}
                self._say(json.dumps({"error": error | {"type": "InternalServerError"}}))
                break
            self._say(shape.token(n, token))
        else:
            for end in shape.end(count, is_cut)[:-1]:
                self._say(end)
        self._say("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _say(self, data: str) -> None:
        if not self._is_wanted():
            raise ConnectionResetError
        self.wfile.write(frame(sse(data)))

    def _is_wanted(self) -> bool:
        time.sleep(0.005)
        self.connection.setblocking(False)
        try:
            return bool(self.connection.recv(1, 2))  # MSG_PEEK
        except BlockingIOError:
            return True
        finally:
            self.connection.setblocking(True)

    def _is_stranger(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.server.key}":
            return False
        self._tell(401, {"error": "Unauthorized"})
        return True

    def _fail(self, status: int, message: str, kind: str) -> None:
        error = {"message": message, "type": kind, "param": None, "code": status}
        self._tell(status, {"error": error})

    def _tell(self, status: int, said: object) -> None:
        self._answer(status, json.dumps(said).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    options = parse_options(sys.argv[1:])
    if fault("exit_once") and is_first(Path(fault("exit_once"))):
        sys.exit("ValueError: invalid literal for int() with base 10: 'GPU-0000'")
    if options.model.startswith("/") and not (Path(options.model) / "config.json").is_file():
        sys.exit(f"OSError: Can't load the configuration of '{options.model}'.")
    reading, writing = os.pipe()
    core = os.fork()
    if not core:
        os.close(reading)
        run_core(options, writing)
    os.close(writing)

    def stop(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(core, signal.SIGKILL)
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    if not os.read(reading, 1):
        for n in range(40):
            say(f'(APIServer pid=1)   File "vllm/entrypoints/cli/serve.py", line {n}, in run')
        say(
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause"
            " above. Failed core proc(s): {}"
        )
        sys.exit(1)
    say("(APIServer pid=1) INFO 05-30 07:47:00 [api_server.py:1] Starting vLLM server on http://x")
    Server(options).serve_forever()


if __name__ == "__main__":
    main()

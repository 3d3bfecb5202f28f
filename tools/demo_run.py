"""One run of the demo: a daemon on the demo model, one question, and the curl lines that ask it.

The answer and the curl lines go to stdout, everything else to stderr. The daemon keeps its own
rules: where the token lies and how a task is asked come from orchd's own modules.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import shlex
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon_child import DaemonChild, Interrupted
from demo_model import ensure_demo_model, find_cache_dir, hold_lock, say

from orchd.ask import ask
from orchd.client import Daemon
from orchd.config.listen import Listen
from orchd.config.model import AuthConfig
from orchd.config.token import Token, ensure_token
from orchd.errors import OrchdError

HOST = "127.0.0.1"
DEFAULT_PORT = 8642
PORTS_TRIED = 20
PROMPT = "The capital of France is"
SAMPLING = {"max_tokens": 48, "temperature": 0}
READY_TIMEOUT_S = 300.0
LOOK_INTERVAL_S = 0.2
TELL_INTERVAL_S = 5.0

CONFIGURATION = """\
# Written anew by tools/quickstart at every start; what is changed here is lost.
[server]
listen = "{host}:{port}"

[tasks]
# A day, so that the curl line printed for the first task finds it for as long as the demo is up.
retain_s = 86400

[[pools]]
id = "demo"
engine = "llamacpp"
model = {model}
devices = ["cpu"]
slots = 4
ctx = 2048
# Threads that sleep while they wait keep the demo usable on a busy machine; by default they spin.
env = {{ OMP_WAIT_POLICY = "passive" }}
"""


class DemoError(Exception):
    """The demo cannot go on; ``str()`` is one line for the user."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of."""

    orchd: Sequence[str] = (str(Path(sys.executable).with_name("orchd")),)
    """The command that ``serve --config FILE`` is added to."""
    ensure_model: Callable[[Path], Path] = ensure_demo_model


@dataclass(frozen=True, slots=True)
class Demo:
    """A daemon that was started for the demo, and how to speak to it."""

    child: DaemonChild
    client: Daemon
    log: Path


def run_demo(
    once: str | None, wanted_port: int | None, parts: Parts, environ: Mapping[str, str]
) -> None:
    """Runs until the answer (``once``) or until a signal. Raises DemoError, OrchdError, and
    Interrupted where a signal came before the answer."""
    cache = find_cache_dir(environ)
    model = parts.ensure_model(cache)
    # The daemon's own function and rule, called first, so that there is nothing to wait for.
    token = ensure_token(AuthConfig(), environ)
    with contextlib.ExitStack() as alone:
        # Until ours listens, another one must not choose the same port and the same files.
        waiting = "Another quickstart is starting; waiting for it."
        alone.enter_context(hold_lock(cache / ".quickstart.lock", waiting))
        port = choose_port(wanted_port)
        # A second demo beside a running one gets files of its own.
        stem = "quickstart" if port == DEFAULT_PORT else f"quickstart-{port}"
        configuration, log = cache / f"{stem}.toml", cache / f"{stem}.log"
        write_configuration(configuration, model, port)
        command = [*parts.orchd, "serve", "--config", str(configuration)]
        say(f"Starting {shlex.join(command)}; its log: {log}")
        with DaemonChild(command, log) as child:
            demo = Demo(child, Daemon(Listen(HOST, port), token), log)
            task_id = answer(demo, PROMPT if once is None else once, alone.close)
            if once is None:
                # The question is answered: from here on a signal is the ordinary end.
                with contextlib.suppress(Interrupted):
                    print_curl_lines(token, port, task_id, environ)
                    print_ask_line(parts.orchd, configuration)
                    stay(demo)
            say("Stopping the daemon.")


def answer(demo: Demo, prompt: str, on_ready: Callable[[], None]) -> str:
    """Waits for the daemon, has the question answered; returns the id of the task."""
    try:
        await_ready(demo)
        on_ready()
        return ask_question(demo, prompt)
    except OrchdError as fault:
        if demo.child.has_exited_within(1.0):
            raise explain_exit(demo) from fault
        raise


def choose_port(wanted: int | None) -> int:
    """The port wanted, or by default the first free one from 8642 on. Raises DemoError."""
    if wanted is not None:
        if not is_free(wanted):
            raise DemoError(f"port {wanted} is taken on {HOST}; name another with --port")
        return wanted
    for port in range(DEFAULT_PORT, DEFAULT_PORT + PORTS_TRIED):
        if is_free(port):
            if port != DEFAULT_PORT:
                say(f"Port {DEFAULT_PORT} is taken; using {port}.")
            return port
    last = DEFAULT_PORT + PORTS_TRIED - 1
    raise DemoError(f"ports {DEFAULT_PORT} to {last} are all taken; name another with --port")


def is_free(port: int) -> bool:
    """Whether nobody listens there. Connections that are closing do not count, as for a server."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                return False
            raise DemoError(f"cannot listen on port {port}: {fault.strerror}") from fault
    return True


def write_configuration(path: Path, model: Path, port: int) -> None:
    """Puts the file there at once, for a daemon that is starting may be reading the one before."""
    # JSON's string syntax is within TOML's basic strings.
    text = CONFIGURATION.format(host=HOST, port=port, model=json.dumps(str(model)))
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.write_text(text)
    draft.replace(path)


def await_ready(demo: Demo) -> None:
    """Returns when /health says that a task can be served, telling meanwhile what is awaited."""
    started_s = time.monotonic()
    told, told_s = "", 0.0
    while (awaited := look_at_health(demo.client)) is not None:
        now_s = time.monotonic()
        if now_s - started_s > READY_TIMEOUT_S:
            raise DemoError(f"not ready after {READY_TIMEOUT_S:.0f} s ({awaited}); see {demo.log}")
        if awaited != told and now_s - told_s >= TELL_INTERVAL_S:
            say(f"Waiting: {awaited}")
            told, told_s = awaited, now_s
        if demo.child.has_exited_within(LOOK_INTERVAL_S):
            raise explain_exit(demo)
    say(f"Ready after {time.monotonic() - started_s:.1f} s.")


def look_at_health(client: Daemon) -> str | None:
    """What is still awaited, in words; None when the daemon is ready."""
    try:
        with client.request("GET", "/health") as response:
            if response.status == http.client.OK:
                return None
            body = json.loads(response.read())
    except OrchdError:
        return "the daemon does not listen yet"
    except (OSError, http.client.HTTPException, ValueError):
        return "the daemon does not answer yet"
    return ", ".join(describe_health(body)) or f"HTTP {response.status}"


def describe_health(body: object) -> Iterator[str]:
    """The words for people in an answer of /health, or in an error's envelope."""
    if not isinstance(body, dict):
        return
    for pool in body.get("pools", ()):
        for replica in pool.get("replicas", ()):
            yield f"replica {replica.get('replica_id')}: {replica.get('reason')}"
    if "pools" not in body:
        yield f"{body.get('code')}: {body.get('message')}"


def ask_question(demo: Demo, prompt: str) -> str:
    """Streams the answer's text and a newline to stdout; returns the id of the task."""
    say(f"Asking: {prompt}")
    task_id = str(uuid.uuid4())
    ask(demo.client, {"task_id": task_id, "prompt": prompt, **SAMPLING}, sys.stdout)
    sys.stdout.flush()
    return task_id


def explain_exit(demo: Demo) -> DemoError:
    """Shows the daemon's last words, and makes the fault that ends the demo."""
    for line in demo.child.read_last_lines():
        say(f"  | {line}")
    return DemoError(f"the daemon ended by itself; its log: {demo.log}")


def stay(demo: Demo) -> None:
    """Stays until a signal raises Interrupted. Raises DemoError when the daemon ends before."""
    say("\nThe daemon stays up until Ctrl-C.")
    demo.child.has_exited_within(None)
    raise explain_exit(demo)


def print_curl_lines(token: Token, port: int, task_id: str, environ: Mapping[str, str]) -> None:
    say("\nThe same with curl; each line works by itself in any shell of this account:")
    for purpose, line in list_curl_lines(token.origin, port, task_id, environ):
        print(f"\n# {purpose}\n{line}", flush=True)


def print_ask_line(orchd: Sequence[str], configuration: Path) -> None:
    line = shlex.join([*orchd, "ask", "--config", str(configuration), "Once upon a time"])
    print(f"\n# the same with orchd's own client\n{line}", flush=True)


def list_curl_lines(
    origin: str, port: int, task_id: str, environ: Mapping[str, str]
) -> list[tuple[str, str]]:
    """What each line does, and the line. The token is named by where it lies, never shown."""
    # In quotes whatever the path: it stands within the header's double quotes.
    path = "'" + origin.replace("'", "'\\''") + "'"
    secret = "$ORCHD_API_TOKEN" if origin == "ORCHD_API_TOKEN" else f"$(cat {path})"
    header = f'-H "Authorization: Bearer {secret}"'
    # curl heeds these and would take the question to a proxy, where nobody knows this daemon.
    if any(environ.get(name) for name in ("http_proxy", "all_proxy", "ALL_PROXY")):
        header = f"--noproxy {HOST} {header}"
    url = f"http://{HOST}:{port}"
    body = shlex.quote(json.dumps({"prompt": PROMPT, **SAMPLING}))
    post = f"curl -s {header} -H 'Content-Type: application/json' -d {body} {url}/v1/tasks"
    read_id = """sed 's/.*"task_id": *"\\([^"]*\\)".*/\\1/'"""
    stream = f"curl -sN {header} {url}/v1/tasks"
    return [
        ("how the daemon stands", f"curl -s {header} {url}/health"),
        ("ask: the answer holds the task's id", post),
        ("the stream of the task that was just asked", f"{stream}/{task_id}/stream"),
        ("ask and stream in one", f"{stream}/$({post} | {read_id})/stream"),
    ]

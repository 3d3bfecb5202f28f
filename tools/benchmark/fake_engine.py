"""Builds the fake engine (``engine.c``) once for each of its versions, and runs it by itself."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon_child import DaemonChild
from loopback import HOST, EngineDoor, find_free_port

from benchmark.ground import BenchError, Ground, Setup
from tests.fakes.engines import write_model

_SOURCE = Path(__file__).with_name("engine.c")
_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")
_KEY = "a-key-for-the-benchmark"
_START_TIMEOUT_S = 20.0
_LOOK_INTERVAL_S = 0.005


def build_engine(folder: Path) -> Path:
    """Returns the program in that folder, made where this version is not there yet. Raises
    BenchError."""
    digest = hashlib.sha256(_SOURCE.read_bytes() + repr(_FLAGS).encode()).hexdigest()
    program = folder / f"engine-{digest[:16]}"
    if program.exists():
        return program
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise BenchError("no C compiler (cc or gcc) to build the fake engine with")
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{program.name}-{os.getpid()}"
    command = [compiler, *_FLAGS, "-o", str(draft), str(_SOURCE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise BenchError(f"the fake engine could not be built: {done.stderr.strip()[:400]}")
    draft.replace(program)
    return program


def describe_pool(ground: Ground, slots: int | None = None, ctx: int | None = None) -> Setup:
    """A pool on the fake engine."""
    program = build_engine(ground.cache)
    setup = Setup(write_model(ground.folder), f'binary = "{program}"')
    return Setup(setup.model, setup.pool, slots or setup.slots, ctx or setup.ctx)


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """The fake engine, nobody between it and us."""

    pid: int
    door: EngineDoor


@contextlib.contextmanager
def run_engine(ground: Ground, slots: int = 256) -> Iterator[RunningEngine]:
    port = find_free_port()
    model = write_model(ground.folder)
    command = [str(build_engine(ground.cache)), "--model", str(model), "--port", str(port)]
    command += ["--parallel", str(slots)]
    environ = {"LLAMA_API_KEY": _KEY}
    with DaemonChild(command, ground.folder / "engine.log", environ=environ) as child:
        await_port(child, port)
        yield RunningEngine(child.pid, EngineDoor(port, _KEY))


def await_port(child: DaemonChild, port: int, look_interval_s: float = _LOOK_INTERVAL_S) -> None:
    """Returns once a connection is accepted there. Raises BenchError."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not is_accepting(port):
        if child.has_exited_within(look_interval_s):
            raise BenchError(f"ended at its start: {' | '.join(child.read_last_lines(3))}")
        if time.monotonic() > deadline_s:
            raise BenchError(f"nobody listens on port {port} after {_START_TIMEOUT_S:g} s")


def is_accepting(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0

"""Runs the naive relay (``naive_app``) at its best: uvloop and httptools, in a venv of its own."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon_child import DaemonChild
from demo_model import explain_failure, hold_lock, say
from loopback import HOST, EngineDoor, find_free_port

from benchmark.fake_engine import await_port
from benchmark.ground import BenchError, Ground

REQUIREMENTS = (
    "fastapi==0.165.0",
    "httptools==0.9.0",
    "httpx==0.28.1",
    "uvicorn==0.54.0",
    "uvloop==0.23.0",
)
_INSTALL_TIMEOUT_S = 600
_STOP_TIMEOUT_S = 3.0


def ensure_venv(folder: Path) -> Path:
    """Returns its python, installed on the first call. Raises BenchError."""
    told = "\n".join((*REQUIREMENTS, sys.version, sys.base_prefix)).encode()
    venv = folder / f"naive-{hashlib.sha256(told).hexdigest()[:16]}"
    python, stamp = venv / "bin" / "python", venv / ".installed"
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / ".naive.lock", "another run makes the naive relay's venv; waiting"):
        if not stamp.exists():
            say("making a venv for the naive relay (once)")
            _run([sys.executable, "-m", "venv", "--clear", str(venv)])
            pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            _run([*pip, *REQUIREMENTS])
            # Last, so that an install that was interrupted is made anew.
            stamp.touch()
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise BenchError(f"no venv for the naive relay: {explain_failure(done.stderr)}")


@dataclass(frozen=True, slots=True)
class RunningNaive:
    """The naive relay, which asks for the engine's own key."""

    pid: int
    door: EngineDoor


@contextlib.contextmanager
def run_naive(ground: Ground, engine: EngineDoor) -> Iterator[RunningNaive]:
    python, port = ensure_venv(ground.cache), find_free_port()
    command = [str(python), "-m", "uvicorn", "naive_app:app", "--host", HOST, "--port", str(port)]
    command += ["--app-dir", str(Path(__file__).parent), "--loop", "uvloop", "--http", "httptools"]
    command += ["--no-access-log", "--log-level", "warning"]
    # It can wait for ever for a connection that nobody holds any more.
    command += ["--timeout-graceful-shutdown", "1"]
    environ = {"NAIVE_ENGINE": f"http://{HOST}:{engine.port}"}
    log = ground.folder / "naive.log"
    with DaemonChild(command, log, stop_timeout_s=_STOP_TIMEOUT_S, environ=environ) as child:
        await_port(child, port)
        yield RunningNaive(child.pid, EngineDoor(port, engine.key))

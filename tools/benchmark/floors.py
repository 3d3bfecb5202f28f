"""Runs the floors (``floor_app``): what the same sockets cost a program that does nothing else."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon_child import DaemonChild
from loopback import EngineDoor, find_free_port

from benchmark.fake_engine import await_port
from benchmark.ground import Ground


@dataclass(frozen=True, slots=True)
class RunningFloor:
    """A floor's process, and where it listens."""

    pid: int
    port: int


@contextlib.contextmanager
def run_pipe(ground: Ground, engine: EngineDoor) -> Iterator[RunningFloor]:
    """Passes bytes on to the engine and back."""
    with _run(ground, "pipe", str(engine.port)) as floor:
        yield floor


@contextlib.contextmanager
def run_answerer(ground: Ground, answer: bytes) -> Iterator[RunningFloor]:
    """Has h11 read requests, and write an answer like that to each."""
    kept = ground.folder / "answer"
    kept.write_bytes(answer)
    with _run(ground, "answer", str(kept)) as floor:
        yield floor


@contextlib.contextmanager
def _run(ground: Ground, kind: str, other: str) -> Iterator[RunningFloor]:
    port = find_free_port()
    app = str(Path(__file__).with_name("floor_app.py"))
    with DaemonChild(
        [sys.executable, app, kind, str(port), other], ground.folder / f"{kind}.log"
    ) as child:
        await_port(child, port)
        yield RunningFloor(child.pid, port)

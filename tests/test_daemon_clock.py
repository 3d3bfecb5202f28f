"""A wall clock that jumps: the fake one as a process meets it, and the real daemon under it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock, build_clock
from tests.fakes.daemon import RunningDaemon, read_events, run_daemon, write_config

HOUR_S = 3600.0
JUMPS_S = (HOUR_S, -2 * HOUR_S, 0.25, HOUR_S - 0.25)
NS = 1_000_000_000
COARSE_NS = NS // 50
"""More than any kernel's tick, by which its coarse clock lags."""

# For each line it reads it writes what every one of its clocks says, in nanoseconds.
CHILD = """
import ctypes, sys, time
from datetime import datetime
libc = ctypes.CDLL(None)
libc.time.restype = ctypes.c_long
now = (ctypes.c_long * 2)()
for line in sys.stdin:
    libc.gettimeofday(now, None)
    print(
        time.time_ns(), round(datetime.now().timestamp() * 1e6) * 1000, time.clock_gettime_ns(5),
        (now[0] * 1_000_000 + now[1]) * 1000, libc.time(None) * 1_000_000_000,
        time.monotonic_ns(), flush=True,
    )
"""
# How far each may lag behind the first: its own unit, or the kernel's tick.
WALL_LAGS_NS = (0, 2000, COARSE_NS, 1000, NS + COARSE_NS)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_clock(tmp_path_factory.mktemp("clock"))


class Child:
    """A process that tells its time when asked."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def check(self, offset_s: float) -> None:
        """Its wall clocks are ahead of ours by so much, its monotonic one is ours."""
        assert self._process.stdin is not None and self._process.stdout is not None
        offset_ns = round(offset_s * NS)
        wall_ns, steady_ns = time.time_ns(), time.monotonic_ns()
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        *walls_ns, told_steady_ns = map(int, self._process.stdout.readline().split())
        assert steady_ns <= told_steady_ns <= time.monotonic_ns()
        end_ns = time.time_ns()
        for told_ns, lag_ns in zip(walls_ns, WALL_LAGS_NS, strict=True):
            assert wall_ns - lag_ns <= told_ns - offset_ns <= end_ns


@contextlib.contextmanager
def run_child(environment: Mapping[str, str]) -> Iterator[Child]:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", CHILD],
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Child(process)
        finally:
            process.kill()


def test_the_wall_clock_jumps_forth_and_back_and_no_other(tmp_path: Path, library: Path) -> None:
    clock = FakeClock(tmp_path)
    assert clock.offset_s == 0
    with run_child(clock.environment(library)) as child:
        child.check(0)
        offset_s = 0.0
        for by_s in JUMPS_S:
            clock.jump(by_s)
            offset_s += by_s
            assert clock.offset_s == offset_s
            child.check(offset_s)


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 7], ids=["absent", "empty", "short"])
def test_without_its_file_nothing_jumps(
    tmp_path: Path, library: Path, content: bytes | None
) -> None:
    environment = FakeClock(tmp_path).environment(library)
    file = Path(environment["FAKE_CLOCK"])
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with run_child(environment) as child:
        child.check(0)
    with run_child({"LD_PRELOAD": str(library)}) as child:
        child.check(0)


def serve_one(daemon: RunningDaemon, offset_s: float) -> None:
    """A task from beginning to end; its line of the log is stamped so far ahead of our clock."""
    began_at = time.time()
    answer = daemon.ask("POST", "/v1/tasks", {"prompt": "hello", "max_tokens": 10})
    assert answer.status == 202
    task = json.load(answer)["task_id"]
    names = [name for name, _ in read_events(daemon.ask("GET", f"/v1/tasks/{task}/stream"))]
    assert (names[0], names[-1]) == ("started", "end")
    stamp = daemon.hear(f"ended a task task={task}").split()[0]
    # It is cut to a millisecond, and ours to a microsecond.
    stamped_at = datetime.fromisoformat(stamp).timestamp() - offset_s
    assert began_at - 0.002 <= stamped_at <= time.time()


def test_the_daemon_serves_on_whatever_the_wall_clock_says(tmp_path: Path, library: Path) -> None:
    clock = FakeClock(tmp_path)
    config = write_config(tmp_path)
    with run_daemon(config, **clock.environment(library)) as daemon:
        daemon.hear("became ready")
        serve_one(daemon, 0)
        for by_s in JUMPS_S:
            clock.jump(by_s)
            serve_one(daemon, clock.offset_s)

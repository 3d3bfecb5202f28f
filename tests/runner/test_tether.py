"""The tether: an engine dies with its parent, even when that is killed by SIGKILL."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.runner import tether

TETHER = tether.__file__
PARENT = """
import os, subprocess, sys
engine = subprocess.Popen([sys.executable, "-I", "-S", sys.argv[1], str(os.getpid()), "",
    "/bin/sh", "-c", "echo $$; exec sleep 600"], start_new_session=True)
engine.wait()
"""


def run_tether(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", TETHER, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env=environment,
    )


def test_it_becomes_the_command_with_its_environment() -> None:
    done = run_tether(str(os.getpid()), "", "/bin/sh", "-c", 'echo "$ONLY"; exit 3', ONLY="this")
    assert (done.returncode, done.stdout, done.stderr) == (3, "this\n", "")


def test_the_engine_dies_when_its_parent_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", PARENT, TETHER], stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        watch = os.pidfd_open(engine)
        try:
            parent.kill()
            # Readable once it has ended; the bound is for a test that fails.
            assert select.select([watch], [], [], 10)[0]
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(watch, signal.SIGKILL)
            os.close(watch)


def test_a_parent_that_died_before_the_wish_was_made_is_noticed(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    done = run_tether("1", "", "/bin/sh", "-c", f"touch {mark}")
    assert (done.returncode, done.stderr) == (1, "tether: the parent is gone already\n")
    assert not mark.exists()


def test_a_command_that_is_not_there_is_said() -> None:
    done = run_tether(str(os.getpid()), "", "/no/such/engine")
    assert (done.returncode, done.stderr) == (
        1,
        "tether: cannot run /no/such/engine: No such file or directory\n",
    )


def start_tether(pipe: int, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", TETHER, str(os.getpid()), str(pipe), *command],
        stdout=subprocess.PIPE,
        env={"ORCHD_ENGINE": "the-mark"},
        pass_fds=(pipe,),
        text=True,
    )


def test_the_guardian_is_told_before_the_command_runs_which_inherits_no_pipe() -> None:
    read_end, write_end = os.pipe()
    with start_tether(write_end, "/bin/sh", "-c", "ls /proc/self/fd") as engine:
        os.close(write_end)
        # To the end: it comes only once nobody holds the other end.
        with os.fdopen(read_end, encoding="ascii") as pipe:
            told = pipe.read()
        stat = Path(f"/proc/{engine.pid}/stat").read_text()
        start = stat.rpartition(")")[2].split()[19]
        assert told == f"began {engine.pid} {start} the-mark\n"
        assert engine.stdout is not None
        # The fourth is the listing itself.
        assert engine.stdout.read().split() == ["0", "1", "2", "3"]


def test_a_guardian_that_is_gone_does_not_keep_the_command_from_running() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with start_tether(write_end, "/bin/sh", "-c", "echo up") as engine:
        os.close(write_end)
        assert engine.stdout is not None
        assert engine.stdout.read() == "up\n"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("number", [3, 1500])
@pytest.mark.usefixtures("many_descriptors")
def test_no_command_runs_before_the_guardian_can_be_told(number: int) -> None:
    read_end, low_end = os.pipe()
    write_end = fcntl.fcntl(low_end, fcntl.F_DUPFD_CLOEXEC, number)
    os.close(low_end)
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"\n")
    with start_tether(write_end, "/bin/sh", "-c", "echo up") as engine:
        os.close(write_end)
        assert engine.stdout is not None
        assert not select.select([engine.stdout], [], [], 0.3)[0]
        with os.fdopen(read_end, encoding="ascii") as pipe:
            assert pipe.read().strip().startswith(f"began {engine.pid} ")
        assert engine.stdout.read() == "up\n"

"""The tether: an engine dies with its parent, even when that is killed by SIGKILL."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

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

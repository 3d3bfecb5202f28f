"""A daemon as a child process: what it is started with, and that it goes with its starter's block.

What becomes of it in each kind of end is in test_quickstart.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from daemon_child import DaemonChild

PATIENCE_S = 20.0
TELL = """
import ctypes, os, sys
on_parents_death = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(on_parents_death))  # PR_GET_PDEATHSIG
print(os.environ.get("NAMED"), os.getppid(), on_parents_death.value, *sys.argv[1:])
"""


@pytest.mark.parametrize("is_tethered", [True, False])
def test_it_gets_its_arguments_and_only_the_environment_named(
    tmp_path: Path, is_tethered: bool
) -> None:
    command, environ = [sys.executable, "-c", TELL, "a", "b c"], {"NAMED": "yes"}
    log = tmp_path / "log"
    with DaemonChild(command, log, environ=environ, is_tethered=is_tethered) as child:
        assert child.has_exited_within(PATIENCE_S)
        signal_at_our_death = int(signal.SIGKILL) if is_tethered else 0
        assert child.read_last_lines() == [f"yes {os.getpid()} {signal_at_our_death} a b c"]


@pytest.mark.parametrize("is_tethered", [True, False])
def test_it_is_gone_behind_the_block(tmp_path: Path, is_tethered: bool) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(100)"]
    with DaemonChild(command, tmp_path / "log", is_tethered=is_tethered) as child:
        os.kill(child.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_signals_are_heard_behind_the_block_as_before_it(tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with DaemonChild([sys.executable, "-c", ""], tmp_path / "log"):
        pass
    assert [signal.getsignal(number) for number in numbers] == before

"""A real process with offspring of every kind, as an engine can have."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from orchd.runner.remains import read_process

TIMEOUT_S = 30.0
# Another one in every run: what bears it is killed, and several may run at once.
MARK = secrets.token_hex(16)
TAG = f"{MARK}-00"

PROGRAM = """
import os, signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)

def pause():
    while True:
        signal.pause()

def spawn(prepare, go_on=pause):
    ours, theirs = os.pipe()
    if os.fork() == 0:
        prepare()
        os.write(theirs, b"%d" % os.getpid())
        if go_on is pause:
            os.close(theirs)
        go_on()
    os.close(theirs)
    # To the end, which comes with an exec too.
    with os.fdopen(ours) as pipe:
        return pipe.read()

def orphan():
    if os.fork():
        os._exit(0)

kin = {
    "leader": os.getpid(),
    "child": spawn(lambda: None),
    "orphan": spawn(orphan),
    "group": spawn(os.setpgrp),
    "session": spawn(os.setsid),
    "bare": spawn(lambda: None, lambda: os.execve("/bin/sleep", ["sleep", "600"], {})),
}
print(*(f"{name}={pid}" for name, pid in kin.items()), flush=True)
pause()
"""
COMMAND = [sys.executable, "-I", "-S", "-c", PROGRAM]
KIN = {"leader", "child", "orphan", "group", "session", "bare"}
"""``group`` has left the leader's process group, ``session`` its session; ``bare`` has no mark."""


class Family:
    """The members by name; each is watched, so that a number that comes round again is none."""

    def __init__(self, told: str, process: subprocess.Popen[str] | None = None) -> None:
        self._process = process
        self.pids = {name: int(pid) for name, pid in (kin.split("=") for kin in told.split())}
        assert set(self.pids) == KIN
        self._watches = {name: os.pidfd_open(pid) for name, pid in self.pids.items()}
        leader = read_process(self.pids["leader"])
        assert leader is not None
        self.pid, self.start = leader.pid, leader.start

    def alive(self) -> set[str]:
        """The names of those that have not ended."""
        ended = select.select(list(self._watches.values()), [], [], 0)[0]
        return {name for name, watch in self._watches.items() if watch not in ended}

    def wait_until_alive_are(self, *names: str) -> None:
        """Wait until all others have ended; fails where one of these has."""
        deadline_s = time.monotonic() + TIMEOUT_S
        for name in KIN - set(names):
            left_s = max(deadline_s - time.monotonic(), 0)
            assert select.select([self._watches[name]], [], [], left_s)[0], f"{name} lives"
        assert self.alive() == set(names)

    def kill(self, name: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._watches[name], signal.SIGKILL)

    def end_leader(self) -> None:
        """Kill it and reap it: its number is held by its session alone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        for name in KIN:
            self.kill(name)
        for watch in self._watches.values():
            os.close(watch)


@contextlib.contextmanager
def run_family(tag: str | None = TAG) -> Iterator[Family]:
    """Started as an engine is, in a session of its own; none of it is left at the end."""
    with subprocess.Popen(
        COMMAND,
        env={} if tag is None else {"ORCHD_ENGINE": tag},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as leader:
        assert leader.stdout is not None
        family = Family(leader.stdout.readline(), leader)
        try:
            yield family
        finally:
            family.close()


def end_daemon() -> tuple[int, int]:
    """Pid and start of a process that was there and is gone."""
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        start = start_of(process.pid)
        process.kill()
    return process.pid, start


def start_of(pid: int) -> int:
    """When a process started that is there, in ticks."""
    process = read_process(pid)
    assert process is not None
    return process.start


def own_start() -> int:
    """When this process started, in ticks."""
    return start_of(os.getpid())

"""One engine process: spawned tethered in a session of its own, read, stopped as a group, reaped.

The process is watched through a pidfd. While it is an unreaped zombie its pid, and so its group's
number, cannot be given to another: that is the moment in which what is left of the group is killed.
After it nothing is signalled any more from here; what has left the group is the guardian's to end.

Invariants: only ``_on_exit`` reaps; ``on_exit`` is called exactly once, when the group is gone; the
pidfd and the pipe are closed by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchd.errors import HostError
from orchd.runner.exit_status import ExitStatus
from orchd.runner.guard import VARIABLE, Guard

_TETHER = str(Path(__file__).with_name("tether.py"))
_READ_BYTES = 64 * 1024
_DRAIN_BYTES = 1024 * 1024
_CHECK_S = 0.01
_CHECKS = 100
"""How often it is asked whether the rest is gone; zombies that nobody reaps keep a group there."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who hears of the process, on the event loop."""

    on_output: Callable[[bytes], None]
    on_exit: Callable[[ExitStatus], None]


class EngineProcess:
    """A running engine. Constructing it spawns it; raises HostError where that fails."""

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        watcher: Watcher,
        guard: Guard,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._watcher = watcher
        self._guard = guard
        self._exited: asyncio.Future[None] = self._loop.create_future()
        tag, pipe = guard.make_tag(), guard.descriptor
        tether = [sys.executable, "-I", "-S", _TETHER, str(os.getpid())]
        try:
            self._popen = subprocess.Popen(
                [*tether, "" if pipe is None else str(pipe), *command],
                env={**environment, VARIABLE: tag},
                pass_fds=() if pipe is None else (pipe,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(f"cannot start a process: {error.strerror}") from error
        assert self._popen.stdout is not None
        self.pid = self._popen.pid
        guard.note(self.pid, tag)
        self._pipe = self._popen.stdout
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except OSError as error:
            self._popen.kill()
            self._popen.wait()
            self._pipe.close()
            guard.clear(self.pid)
            raise HostError(f"cannot watch a process: {error.strerror}") from error
        os.set_blocking(self._pipe.fileno(), False)
        self._loop.add_reader(self._pipe.fileno(), self._read)
        self._loop.add_reader(self._pidfd, self._on_exit)

    async def stop(self, grace_s: float, kill_timeout_s: float) -> bool:
        """SIGTERM to the group, SIGKILL after the grace; True when it is gone and reaped.

        Without any grace SIGKILL at once.
        False where it is there still so long after its SIGKILL: it waits inside the kernel, for a
        driver or a disk. ``on_exit`` is called whenever it ends after all.
        """
        if grace_s:
            self._signal(signal.SIGTERM)
            await asyncio.wait([self._exited], timeout=grace_s)
        self.kill()
        await asyncio.wait([self._exited], timeout=kill_timeout_s)
        return self._exited.done()

    def kill(self) -> None:
        """SIGKILL to the group now; nothing happens to one that is gone."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # Once it is reaped, its pid may be another's.
        if self._popen.returncode is None:
            # EPERM: all that is left of it runs as another user.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _read(self) -> int:
        """Read once; how many bytes there were."""
        try:
            data = os.read(self._pipe.fileno(), _READ_BYTES)
        except BlockingIOError:
            return 0
        if data:
            self._watcher.on_output(data)
        else:
            self._loop.remove_reader(self._pipe.fileno())
        return len(data)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._signal(signal.SIGKILL)
        code = self._popen.wait()
        os.close(self._pidfd)
        # Where the guardian sees to it, it is asked; where there is none, the group.
        is_there = self._guard.is_known if self._guard.clear(self.pid) else _is_group_there
        self._finish(code, is_there, _CHECKS)

    def _finish(self, code: int, is_there: Callable[[int], bool], checks_left: int) -> None:
        """Tell of the exit, once the rest of its session, or at least of its group, is gone."""
        # Killed is not gone: a process with much memory takes a while to give it back. It is not
        # our child, so nobody tells us; its group keeps the number from being given to another.
        if checks_left and is_there(self.pid):
            self._loop.call_later(_CHECK_S, self._finish, code, is_there, checks_left - 1)
            return
        drained = 0
        while drained < _DRAIN_BYTES and (size := self._read()):
            drained += size
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        self._exited.set_result(None)
        self._watcher.on_exit(ExitStatus.of(code))


def _is_group_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

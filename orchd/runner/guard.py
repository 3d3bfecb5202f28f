"""The daemon's end of the guardian: starts it, tells it of every engine, replaces it when it dies.

An engine's own process dies with the daemon by its tether; the guardian ends what that process has
started. Where none can run, engines run on unguarded and the log says so.

Invariants: only the daemon and, until it becomes an engine, a tether hold the pipe's write end; a
new guardian hears of every engine that its predecessor knew; nothing here waits for a disk on the
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchd.config.places import state_dir
from orchd.errors import HostError
from orchd.runner.guardian_process import GuardianProcess
from orchd.runner.remains import read_process
from orchd.runner.restart import RestartPolicy

log = logging.getLogger(__name__)

FOLDER_NAME = "engines"
SWEEP_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 10.0
VARIABLE = "ORCHD_ENGINE"
"""What marks an engine's processes: see ``remains``."""

_LINE_CHARS = 500


def engines_folder(environ: Mapping[str, str]) -> Path | None:
    """Where engines are recorded; None, and a warning, where there is no folder for it."""
    try:
        return state_dir(environ) / FOLDER_NAME
    except HostError as error:
        log.warning("engines are not recorded: %s", error)
        return None


@dataclass(frozen=True, slots=True)
class _Session:
    start: int
    tag: str
    has_ended: bool = False


class Guard:
    """Sees to it that nothing of an engine outlives the daemon. Until it is started it guards none.

    ``folder`` is where this daemon's engines are recorded and those of others are looked up.
    """

    def __init__(
        self,
        folder: Path | None,
        policy: RestartPolicy | None = None,
        sweep_timeout_s: float = SWEEP_TIMEOUT_S,
        stop_timeout_s: float = STOP_TIMEOUT_S,
    ) -> None:
        own = read_process(os.getpid())
        self._mark = secrets.token_hex(16)
        self._arguments = [str(os.getpid()), str(own.start if own else 0), self._mark]
        if folder is not None:
            self._arguments.append(str(folder))
        self._policy = policy or RestartPolicy()
        self._sweep_timeout_s = sweep_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._sessions: dict[int, _Session] = {}
        self._guardian: GuardianProcess | None = None
        self._running: asyncio.Task[None] | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._has_swept = asyncio.Event()
        self._has_swept.set()
        self._is_stopping = asyncio.Event()
        self._has_left_nothing = False
        """The last guardian came to its own end."""

    def start(self) -> None:
        """Start the guardian, which begins with the sweep."""
        self._has_swept.clear()
        loop = asyncio.get_running_loop()
        self._running = loop.create_task(self._run(), name="guard")
        self._patience = loop.call_later(self._sweep_timeout_s, self._give_up)

    async def sweep(self) -> None:
        """Wait until what other daemons have left is ended, or that has taken too long."""
        await self._has_swept.wait()

    async def stop(self) -> None:
        """Let the guardian go, when no engine is left; it removes the record."""
        if self._running is None:
            return
        self._is_stopping.set()
        self._end_sweep()
        guardian, self._guardian = self._guardian, None
        if guardian is not None:
            guardian.hang_up()
        await asyncio.wait([self._running], timeout=self._stop_timeout_s)
        if not self._running.done():
            log.warning(
                "the guardian of the engines did not end within %g s, killed it",
                self._stop_timeout_s,
            )
            self._running.cancel()
            await asyncio.wait([self._running])
            if guardian is not None:
                guardian.reap()
        if not self._has_left_nothing:
            await self._end_rest()

    # -- what an engine's process tells --------------------------------------------------------

    def make_tag(self) -> str:
        """What the next engine's processes are to be known by, as ``VARIABLE``; not a secret."""
        return f"{self._mark}-{secrets.token_hex(8)}"

    @property
    def descriptor(self) -> int | None:
        """Where a tether says that an engine begins; None while there is no guardian."""
        return None if self._guardian is None else self._guardian.pipe.fileno()

    def note(self, pid: int, tag: str) -> None:
        """A tether was spawned; it tells the guardian by itself, but not a later one."""
        if (process := read_process(pid)) is not None:
            self._sessions[pid] = _Session(process.start, tag)

    def clear(self, pid: int) -> bool:
        """The engine has ended and is reaped: have the rest ended; False if nobody can just now."""
        if (session := self._sessions.get(pid)) is None:
            return False
        self._sessions[pid] = replace(session, has_ended=True)
        if self._guardian is None:
            return False  # the next one is told
        self._guardian.tell(f"ended {pid}")
        return True

    def is_known(self, pid: int) -> bool:
        """Whether there still is something of this engine, as far as the guardian has told."""
        return pid in self._sessions

    # -- the guardian --------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_stopping.is_set():
            began_s = loop.time()
            try:
                code = await self._live_once()
                how = "cannot be killed" if code is None else f"ended with code {code}"
            except OSError as error:
                self._end_sweep()
                code, how = None, f"cannot be started: {error.strerror}"
            if self._is_stopping.is_set():
                self._has_left_nothing = code == 0
                return
            self._policy = self._policy.after_failure(loop.time() - began_s)
            log.warning(
                "the guardian of the engines %s; what an engine has started can outlive the daemon"
                " until another runs, in %g s",
                *(how, self._policy.delay_s),
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), self._policy.delay_s)

    async def _live_once(self) -> int | None:
        """From a guardian's start to its end; its exit code, None where it cannot be killed."""
        self._guardian = guardian = GuardianProcess(self._arguments, self._hear)
        try:
            self._brief(guardian)
            await guardian.is_gone.wait()
        finally:
            # Not killed: where the loop ends without a ``stop``, all is left to it.
            self._guardian = None
            guardian.let_go()
        return guardian.reap()

    def _brief(self, guardian: GuardianProcess) -> None:
        for pid, session in self._sessions.items():
            guardian.tell(f"began {pid} {session.start} {session.tag}")
            if session.has_ended:
                guardian.tell(f"ended {pid} late")

    async def _end_rest(self) -> None:
        """Have what engines left ended after all, by a guardian of its own: none was there for it,
        or it was killed."""
        # One that cannot be started was told of before.
        with contextlib.suppress(OSError):
            guardian = GuardianProcess(self._arguments, self._hear)
            try:
                self._brief(guardian)
                guardian.hang_up()
                await asyncio.wait_for(guardian.is_gone.wait(), STOP_TIMEOUT_S)
            except TimeoutError:
                log.warning("what engines have started may outlive the daemon")
            finally:
                guardian.let_go()
                guardian.reap()

    def _give_up(self) -> None:
        log.warning(
            "to look for what other daemons left takes over %g s, engines do not wait any longer",
            self._sweep_timeout_s,
        )
        self._end_sweep()

    def _end_sweep(self) -> None:
        self._has_swept.set()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _hear(self, line: str) -> None:
        match line.split():
            case ["ready"]:
                self._end_sweep()
            case ["clear", pid]:
                self._sessions.pop(int(pid), None)
            case ["swept", daemon_pid, count, *pids]:
                log.warning(
                    "ended %s processes of engines of a daemon that is gone daemon_pid=%s pids=%s",
                    *(count, daemon_pid, ",".join(pids)),
                )
            case _:
                log.warning("the guardian of the engines said: %s", line[:_LINE_CHARS])

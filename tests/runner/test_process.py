"""One engine process: spawned, read, stopped, reaped; with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchd.errors import HostError
from orchd.runner.exit_status import ExitStatus
from orchd.runner.guard import Guard
from orchd.runner.process import EngineProcess, Watcher
from tests.conftest import Drive
from tests.fakes.engines import count_descriptors, list_children, list_session

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"


def python(program: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", program]


def halt(pid: int) -> None:
    """SIGSTOP, and until it has come to pass: a SIGTERM behind it would overtake it."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED)


class Running:
    """A process under test, and all that was heard of it."""

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.heard = b""
        self.exits: list[str] = []
        self._news = asyncio.Event()
        watcher = Watcher(self._on_output, self._on_exit)
        self.process = EngineProcess(command, environment or {}, watcher, guard or Guard(None))

    def _on_output(self, data: bytes) -> None:
        assert not self.exits, "output after the exit"
        self.heard += data
        self._news.set()

    def _on_exit(self, exit_status: ExitStatus) -> None:
        self.exits.append(str(exit_status))
        self._news.set()

    async def hear(self, text: bytes) -> None:
        while text not in self.heard:
            assert not self.exits, f"{self.exits} {self.heard!r}"
            self._news.clear()
            await self._news.wait()

    async def exit(self) -> str:
        while not self.exits:
            self._news.clear()
            await self._news.wait()
        await asyncio.sleep(0)
        assert len(self.exits) == 1
        return self.exits[0]


@contextlib.asynccontextmanager
async def running(
    command: list[str], environment: dict[str, str] | None = None
) -> AsyncIterator[Running]:
    """Nothing of the process is left behind, however the test ends."""
    descriptors = count_descriptors()
    it = Running(command, environment)
    try:
        yield it
    finally:
        left = list_session(it.process.pid)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await it.exit()
    assert not left
    assert it.process.pid not in list_children()
    assert count_descriptors() == descriptors


def test_output_and_exit_are_told_and_nothing_is_left(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(["/bin/sh", "-c", "echo out; echo err >&2; exit 3"]) as it:
            assert await it.exit() == "exited with code 3"
            assert it.heard == b"out\nerr\n"

    drive(scenario())


def test_it_has_its_own_session_the_given_environment_and_an_empty_input(
    drive: Drive[None],
) -> None:
    program = "import os, sys; print(os.getsid(0), os.getpgid(0), os.environ, sys.stdin.read())"

    async def scenario() -> None:
        async with running(python(program), {"ONLY": "this"}) as it:
            assert await it.exit() == "exited with code 0"
            pid = it.process.pid
            assert it.heard.startswith(f"{pid} {pid} environ({{'ONLY': 'this'".encode())
            assert b"PATH" not in it.heard

    drive(scenario())


def test_it_inherits_no_descriptor_of_ours(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        with (tmp_path / "secret").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            async with running(python("import os; print(os.listdir('/proc/self/fd'))")) as it:
                await it.exit()
        # The fourth is the listing itself.
        assert it.heard == b"['0', '1', '2', '3']\n"

    drive(scenario())


def test_what_ends_it_is_told_by_name(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(["/bin/sh", "-c", "kill -SEGV $$"]) as it:
            assert await it.exit() == "was ended by SIGSEGV"
        async with running(python("import os; os.kill(os.getpid(), 40)")) as it:
            assert await it.exit() == "was ended by signal 40"

    drive(scenario())


def test_sigterm_ends_it(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(["/bin/sh", "-c", "echo up; exec sleep 600"]) as it:
            await it.hear(b"up")
            await it.process.stop(grace_s=600, kill_timeout_s=600)
            assert it.exits == ["was ended by SIGTERM"]

    drive(scenario())


def test_sigkill_follows_for_one_that_ignores_sigterm(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(python(f"{DEAF} print('up', flush=True); signal.pause()")) as it:
            await it.hear(b"up")
            await it.process.stop(grace_s=0.05, kill_timeout_s=600)
            assert it.exits == ["was ended by SIGKILL"]

    drive(scenario())


def test_a_stopped_one_is_ended_too(drive: Drive[None]) -> None:
    """SIGSTOP: SIGTERM waits until it goes on, which it never does."""

    async def scenario() -> None:
        async with running(["/bin/sh", "-c", "echo up; exec sleep 600"]) as it:
            await it.hear(b"up")
            halt(it.process.pid)
            await it.process.stop(grace_s=0.05, kill_timeout_s=600)
            assert it.exits == ["was ended by SIGKILL"]

    drive(scenario())


FAMILY = f"""
import os, time, signal
if os.fork() == 0:
    {DEAF}
    memory = b"x" * 200_000_000
    print('child', flush=True)
    while True: time.sleep(600)
while True: time.sleep(600)
"""


def test_no_grandchild_is_alive_when_it_is_said_to_be_gone(drive: Drive[None]) -> None:
    """It ignores SIGTERM, and so much memory takes the kernel a while to take back."""

    async def scenario() -> None:
        async with running(python(FAMILY)) as it:
            await it.hear(b"child")
            await it.process.stop(grace_s=600, kill_timeout_s=600)
            assert list_session(it.process.pid) == []
            assert it.exits == ["was ended by SIGTERM"]

    drive(scenario())


def test_a_crash_takes_the_grandchildren_with_it(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(python(FAMILY)) as it:
            await it.hear(b"child")
            os.kill(it.process.pid, signal.SIGKILL)
            assert await it.exit() == "was ended by SIGKILL"
            assert list_session(it.process.pid) == []

    drive(scenario())


def test_one_that_left_the_session_and_holds_the_output_does_not_hold_up_the_exit(
    drive: Drive[None],
) -> None:
    program = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    command = f"import os\nif os.fork() == 0:\n  {program}\nos.wait()"

    async def scenario() -> None:
        async with running(python(command)) as it:
            await it.hear(b"\n")
            escaped = int(it.heard)
            try:
                await it.process.stop(grace_s=600, kill_timeout_s=600)
                assert it.exits == ["was ended by SIGTERM"]
            finally:
                os.kill(escaped, signal.SIGKILL)

    drive(scenario())


def test_output_written_just_before_the_exit_is_heard_whole(drive: Drive[None]) -> None:
    async def scenario() -> None:
        for _ in range(10):
            async with running(["/bin/sh", "-c", "head -c 60000 /dev/zero; echo last"]) as it:
                await it.exit()
                assert it.heard.endswith(b"last\n")
                assert len(it.heard) == 60_005

    drive(scenario())


def test_one_that_closes_its_output_goes_on(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(["/bin/sh", "-c", "echo up; exec sleep 600 >&- 2>&-"]) as it:
            await it.hear(b"up")
            await asyncio.sleep(0.05)
            assert it.exits == []
            await it.process.stop(grace_s=600, kill_timeout_s=600)

    drive(scenario())


def test_stop_again_and_after_the_exit_is_quiet(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(["/bin/sh", "-c", "echo up; exec sleep 600"]) as it:
            await it.hear(b"up")
            await asyncio.gather(it.process.stop(600, 600), it.process.stop(600, 600))
            await it.process.stop(600, 600)
            it.process.kill()
            assert it.exits == ["was ended by SIGTERM"]

    drive(scenario())


def test_kill_does_not_wait_for_the_grace(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(python(f"{DEAF} print('up', flush=True); signal.pause()")) as it:
            await it.hear(b"up")
            stopping = asyncio.ensure_future(it.process.stop(grace_s=600, kill_timeout_s=600))
            it.process.kill()
            await stopping
            assert it.exits == ["was ended by SIGKILL"]

    drive(scenario())


def test_stop_at_once_after_the_start(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with running(["/bin/sh", "-c", "exec sleep 600"]) as it:
            await it.process.stop(grace_s=600, kill_timeout_s=600)
            assert it.exits == ["was ended by SIGTERM"]

    drive(scenario())


def test_what_cannot_be_run_says_so_in_its_last_words(drive: Drive[None], tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\x00garbage")
    garbage.chmod(0o755)

    async def scenario() -> None:
        async with running(["/no/such/engine"]) as it:
            assert await it.exit() == "exited with code 1"
            assert it.heard == b"tether: cannot run /no/such/engine: No such file or directory\n"
        async with running([str(garbage)]) as it:
            await it.exit()
            assert it.heard == f"tether: cannot run {garbage}: Exec format error\n".encode()

    drive(scenario())


def test_a_process_that_cannot_be_watched_is_not_left_running(
    drive: Drive[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        descriptors, children = count_descriptors(), list_children()
        monkeypatch.setattr(os, "pidfd_open", refuse)
        with pytest.raises(HostError, match="cannot watch a process: Too many open files"):
            Running(["/bin/sh", "-c", "exec sleep 600"])
        assert (count_descriptors(), list_children()) == (descriptors, children)

    drive(scenario())

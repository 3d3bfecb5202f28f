"""The daemon's end of the guardian: with real guardians and real engines."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchd.runner.engine_record import Name, make_record, read_record, write_record
from orchd.runner.guard import Guard, engines_folder
from orchd.runner.process import EngineProcess, Watcher
from orchd.runner.restart import RestartPolicy
from tests.conftest import Drive
from tests.fakes.engines import count_descriptors, list_children
from tests.fakes.family import COMMAND, KIN, MARK, Family, end_daemon, run_family
from tests.runner.stage import open_reserve, until

QUICK = RestartPolicy(first_delay_s=0.01, longest_delay_s=0.05)
SLEEP = ["/bin/sleep", "600"]


class Engine:
    """An engine under a guard, and all that was heard of it."""

    def __init__(self, guard: Guard, command: list[str]) -> None:
        self.heard = b""
        self.exits: list[str] = []
        watcher = Watcher(self._on_output, lambda exit_status: self.exits.append(str(exit_status)))
        self.process = EngineProcess(command, {}, watcher, guard)

    def _on_output(self, data: bytes) -> None:
        self.heard += data

    async def become_a_family(self) -> Family:
        await until(lambda: self.heard.endswith(b"\n"))
        return Family(self.heard.decode())


@contextlib.asynccontextmanager
async def guarded(folder: Path | None, guard: Guard | None = None) -> AsyncIterator[Guard]:
    """A guard that has swept; nothing of it is left at the end, whatever it guarded."""
    await open_reserve()
    descriptors, children = count_descriptors(), list_children()
    guard = guard or Guard(folder, QUICK)
    guard.start()
    await guard.sweep()
    try:
        yield guard
    finally:
        await guard.stop()
    assert list_children() == children
    assert count_descriptors() == descriptors
    if folder is not None:
        assert list_names(folder) == []


def list_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def guardian_of(folder: Path) -> int:
    """The pid of the guardian that has written the record last; 0 for none."""
    for path in folder.glob("*.json"):
        if (record := read_record(path)) is not None:
            return record.guardian[0]
    return 0


def halt(child: int) -> None:
    """SIGSTOP, and until it has come to pass."""
    os.kill(child, signal.SIGSTOP)
    os.waitid(os.P_PID, child, os.WSTOPPED)


def reap(child: int) -> int:
    """Wait for its end; its wait status."""
    return os.waitpid(child, 0)[1]


def sessions_in(folder: Path) -> set[int]:
    """The engines on record."""
    (path,) = folder.glob("*.json")
    record = read_record(path)
    return set() if record is None else set(record.sessions)


def test_one_that_was_never_started_guards_nothing_and_holds_up_nobody(drive: Drive[None]) -> None:
    async def scenario() -> None:
        descriptors = count_descriptors()
        guard = Guard(None)
        await guard.sweep()
        engine = Engine(guard, ["/bin/sh", "-c", "exit 3"])
        await until(lambda: engine.exits == ["exited with code 3"])
        await guard.stop()
        assert count_descriptors() == descriptors

    drive(scenario())


def test_a_stop_of_an_engine_leaves_nothing_of_its_session_nor_beyond(
    drive: Drive[None], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with guarded(tmp_path) as guard:
            engine = Engine(guard, COMMAND)
            with contextlib.closing(await engine.become_a_family()) as family:
                assert family.alive() == KIN
                await engine.process.stop(grace_s=0.02, kill_timeout_s=600)
                assert family.alive() == set()
                assert engine.exits == ["was ended by SIGKILL"]

    drive(scenario())


def test_a_crash_of_an_engine_leaves_nothing_either_and_no_other_is_touched(
    drive: Drive[None], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with guarded(tmp_path) as guard:
            engine, other = Engine(guard, COMMAND), Engine(guard, SLEEP)
            with contextlib.closing(await engine.become_a_family()) as family:
                family.kill("leader")
                await until(lambda: bool(engine.exits))
                assert family.alive() == set()
            await until(lambda: sessions_in(tmp_path) == {other.process.pid})
            assert other.exits == []
            await other.process.stop(grace_s=600, kill_timeout_s=600)

    drive(scenario())


def test_when_the_daemon_is_gone_so_are_its_engines(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with guarded(tmp_path) as guard:
            engine = Engine(guard, COMMAND)
            with contextlib.closing(await engine.become_a_family()) as family:
                # For the guardian this is the same.
                await guard.stop()
                assert family.alive() == set()
                await until(lambda: bool(engine.exits))

    drive(scenario())


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
def test_a_loop_that_ends_without_a_stop_leaves_it_to_the_guardian(
    drive: Drive[None], tmp_path: Path
) -> None:
    """What comes of a bug in the daemon: whoever runs the loop cancels every task."""

    async def scenario() -> None:
        guard = Guard(tmp_path, QUICK)
        guard.start()
        await guard.sweep()
        engine = Engine(guard, COMMAND)
        with contextlib.closing(await engine.become_a_family()) as family:
            await until(lambda: sessions_in(tmp_path) == {engine.process.pid})
            guardian_pid = guardian_of(tmp_path)
            (running,) = (task for task in asyncio.all_tasks() if task.get_name() == "guard")
            running.cancel()
            await until(lambda: family.alive() == set())
            assert reap(guardian_pid) == 0, "it was not killed"
            await until(lambda: bool(engine.exits))

    drive(scenario())
    assert list_names(tmp_path) == []
    gc.collect()  # now, while the warning of a process that nobody reaped is expected


def test_an_engine_inherits_no_descriptor_of_ours(drive: Drive[None], tmp_path: Path) -> None:
    """With the pipe's write end in an engine, the guardian would never see the daemon's end."""

    async def scenario() -> None:
        async with guarded(tmp_path) as guard:
            program = "import os; print(os.listdir('/proc/self/fd'))"
            engine = Engine(guard, [sys.executable, "-I", "-S", "-c", program])
            await until(lambda: bool(engine.exits))
            # The fourth is the listing itself.
            assert engine.heard == b"['0', '1', '2', '3']\n"

    drive(scenario())


def test_a_guardian_that_dies_is_replaced_and_earlier_engines_are_guarded(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with guarded(tmp_path) as guard:
            engine = Engine(guard, COMMAND)
            with contextlib.closing(await engine.become_a_family()) as family:
                first = guardian_of(tmp_path)
                os.kill(first, signal.SIGKILL)
                await until(lambda: guardian_of(tmp_path) not in (0, first))
                await until(lambda: sessions_in(tmp_path) == {engine.process.pid})
                assert family.alive() == KIN
                await guard.stop()
                assert family.alive() == set()
                await until(lambda: bool(engine.exits))

    drive(scenario())
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "the guardian of the engines ended with code -9; what an engine has" in caplog.text


def test_engines_that_begin_or_end_without_a_guardian_do_not_wait_for_one(
    drive: Drive[None], tmp_path: Path
) -> None:
    patient = RestartPolicy(first_delay_s=600, longest_delay_s=600)

    async def scenario() -> None:
        async with guarded(None, Guard(tmp_path, patient)) as guard:
            before = Engine(guard, SLEEP)
            os.kill(guardian_of(tmp_path), signal.SIGKILL)
            await until(lambda: guard.descriptor is None)
            await before.process.stop(grace_s=600, kill_timeout_s=600)
            after = Engine(guard, SLEEP)
            await after.process.stop(grace_s=600, kill_timeout_s=600)
            assert (before.exits, after.exits) == (["was ended by SIGTERM"],) * 2

    drive(scenario())


def test_a_guardian_that_hangs_holds_up_an_exit_for_a_bounded_time_only(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        guard = Guard(tmp_path, QUICK, stop_timeout_s=0.05)
        async with guarded(None, guard):
            halt(guardian_of(tmp_path))
            engine = Engine(guard, SLEEP)
            await engine.process.stop(grace_s=600, kill_timeout_s=600)
            assert engine.exits == ["was ended by SIGTERM"]

    drive(scenario())
    assert "the guardian of the engines did not end within 0.05 s, killed it" in caplog.text


def test_what_an_engine_left_while_there_was_no_guardian_the_next_one_ends(
    drive: Drive[None], tmp_path: Path
) -> None:
    patient = RestartPolicy(first_delay_s=0.5, longest_delay_s=0.5)

    async def scenario() -> None:
        async with guarded(tmp_path, Guard(tmp_path, patient)) as guard:
            engine = Engine(guard, COMMAND)
            with contextlib.closing(await engine.become_a_family()) as family:
                os.kill(guardian_of(tmp_path), signal.SIGKILL)
                await until(lambda: guard.descriptor is None)
                await engine.process.stop(grace_s=0.02, kill_timeout_s=600)
                await until(lambda: family.alive() == set())
                await until(lambda: not guard.is_known(engine.process.pid))

    drive(scenario())


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_stop_leaves_nothing_when_the_guardian_is_not_there_for_it(
    drive: Drive[None], tmp_path: Path, fault: signal.Signals
) -> None:
    patient = RestartPolicy(first_delay_s=600, longest_delay_s=600)

    async def scenario() -> None:
        guard = Guard(tmp_path, patient, stop_timeout_s=0.05)
        async with guarded(tmp_path, guard):
            engine = Engine(guard, COMMAND)
            with contextlib.closing(await engine.become_a_family()) as family:
                if fault is signal.SIGSTOP:
                    halt(guardian_of(tmp_path))
                else:
                    os.kill(guardian_of(tmp_path), fault)
                    await until(lambda: guard.descriptor is None)
                await engine.process.stop(grace_s=0.02, kill_timeout_s=600)
                assert family.alive() not in (set(), KIN), "what has left the group"
                await guard.stop()
                assert family.alive() == set()

    drive(scenario())


def test_a_guardian_that_does_not_read_is_replaced_before_the_pipe_is_full(
    drive: Drive[None], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with guarded(tmp_path) as guard:
            engine = Engine(guard, SLEEP)
            first = guardian_of(tmp_path)
            halt(first)
            tag, pid = guard.make_tag(), engine.process.pid
            for _ in range(10_000):
                guard.clear(pid)
                guard.note(pid, tag)
            await until(lambda: guardian_of(tmp_path) not in (0, first))
            await engine.process.stop(grace_s=600, kill_timeout_s=600)

    drive(scenario())


def test_one_that_cannot_be_started_is_said_and_holds_up_nobody(
    drive: Drive[None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        with monkeypatch.context() as broken:
            broken.setattr(sys, "executable", "/no/such/python")
            async with guarded(None, Guard(tmp_path)) as guard:
                assert guard.descriptor is None

    drive(scenario())
    (warning,) = caplog.messages
    assert warning.startswith(
        "the guardian of the engines cannot be started: No such file or directory;"
    )


def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "engines"

    async def scenario() -> None:
        async with guarded(None, Guard(folder)) as guard:
            for _ in range(3):
                engine = Engine(guard, SLEEP)
                await engine.process.stop(grace_s=600, kill_timeout_s=600)

    drive(scenario())
    assert caplog.messages == [
        "the guardian of the engines said: "
        f"cannot keep a record of engines in {folder}: Not a directory"
    ]


def test_a_sweep_that_takes_too_long_is_not_waited_for(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        guard = Guard(tmp_path, sweep_timeout_s=0.02)
        os.mkfifo(tmp_path / "left.draft")
        left = tmp_path / str(Name(*end_daemon(), MARK))
        with run_family(None) as hanging:
            # A guardian of a daemon that is gone, which does not go.
            its = (hanging.pid, hanging.start)
            write_record(left, replace(make_record({}), guardian=its))
            async with guarded(None, guard):
                assert "engines do not wait any longer" in caplog.text

    drive(scenario())


def test_what_was_swept_is_one_warning(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = end_daemon()

    async def scenario() -> None:
        with run_family() as family:
            left = replace(make_record({family.pid: family.start}), guardian=end_daemon())
            write_record(tmp_path / str(Name(*daemon, MARK)), left)
            async with guarded(tmp_path):
                assert family.alive() == set()

    drive(scenario())
    (warning,) = caplog.messages
    assert warning.startswith(
        f"ended 6 processes of engines of a daemon that is gone daemon_pid={daemon[0]} pids="
    )


def test_fifty_engines_leave_no_trace(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with guarded(tmp_path) as guard:
            descriptors, children = count_descriptors(), list_children()
            for _ in range(50):
                engine = Engine(guard, ["/bin/sh", "-c", "exit 0"])
                await until(lambda: bool(engine.exits))  # noqa: B023
            assert (count_descriptors(), list_children()) == (descriptors, children)
            await until(lambda: sessions_in(tmp_path) == set())

    drive(scenario())


def test_the_folder_is_that_of_the_state_or_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert engines_folder({"STATE_DIRECTORY": str(tmp_path)}) == tmp_path / "engines"
    assert engines_folder({"HOME": "/h"}) == Path("/h/.local/state/orchd/engines")
    assert caplog.text == ""
    assert engines_folder({}) is None
    assert "engines are not recorded: no folder to keep state in" in caplog.text

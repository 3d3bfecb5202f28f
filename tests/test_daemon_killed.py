"""The real daemon, killed: nothing of its engines outlives it, and the next one starts at once."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.runner.engine_record import read_record
from tests.fakes.daemon import TIMEOUT_S, RunningDaemon, read_events, run_daemon, write_config
from tests.fakes.engines import list_children, list_session

ENGINE = Path(__file__).with_name("fakes") / "llama_server.py"
KILLS = 20
TASKS = 4


def write_wrapped_config(folder: Path) -> Path:
    """The engine is started by a script that stays, as a user's own may, and has a helper."""
    config = write_config(folder, slots=TASKS, grandchild=1)
    command = shlex.join([sys.executable, "-I", "-S", str(ENGINE)])
    (folder / "llama-server").write_text(f'#!/bin/sh\n{command} "$@"\nexit $?\n')
    return config


def records_in(folder: Path) -> list[Path]:
    return sorted((folder / ".local/state/orchd/engines").iterdir())


class Processes:
    """Watches over what a daemon has started: each by a handle, so that none is mistaken."""

    def __init__(self, daemon: RunningDaemon) -> None:
        daemon.hear("became ready")
        engine = daemon.hear_engine()
        children = set(list_children(daemon.process.pid))
        assert engine in children
        (self.guardian,) = children - {engine}
        self.engines = list_session(engine)
        assert len(self.engines) == 3, "the script, the engine and its helper"
        self._handles = {pid: os.pidfd_open(pid) for pid in (*self.engines, self.guardian)}

    def alive(self) -> set[int]:
        ended = select.select(list(self._handles.values()), [], [], 0)[0]
        return {pid for pid, handle in self._handles.items() if handle not in ended}

    def wait_for_end(self) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        for pid, handle in self._handles.items():
            left_s = max(deadline_s - time.monotonic(), 0)
            assert select.select([handle], [], [], left_s)[0], f"{pid} lives"

    def kill(self, pid: int) -> None:
        signal.pidfd_send_signal(self._handles[pid], signal.SIGKILL)

    def close(self) -> None:
        for pid, handle in self._handles.items():
            with contextlib.suppress(ProcessLookupError):
                self.kill(pid)
            os.close(handle)


@contextlib.contextmanager
def watched(daemon: RunningDaemon) -> Iterator[Processes]:
    processes = Processes(daemon)
    try:
        yield processes
    finally:
        processes.close()


def load(daemon: RunningDaemon) -> list[http.client.HTTPResponse]:
    """Tasks that stream without an end; returned when each has begun."""
    streams = [daemon.submit("[tokens 1000] [every 0.01]") for _ in range(TASKS)]
    for stream in streams:
        assert stream.readline().startswith(b"id: 0")
    return streams


def answer(daemon: RunningDaemon) -> None:
    assert read_events(daemon.submit("[tokens 3]"))[-1][1]["tokens_out"] == 3


def test_killed_twenty_times_in_a_row_it_leaves_nothing_and_the_next_works_at_once(
    tmp_path: Path,
) -> None:
    config = write_wrapped_config(tmp_path)
    for _ in range(KILLS):
        with run_daemon(config, ORCHD_LOG="info") as daemon, watched(daemon) as processes:
            answer(daemon)
            load(daemon)
            assert len(processes.alive()) == 4
            daemon.signal(signal.SIGKILL)
            assert daemon.wait() == -signal.SIGKILL
            processes.wait_for_end()
            assert records_in(tmp_path) == []
            assert "failed" not in daemon.log
            assert "daemon that is gone" not in daemon.log
    with run_daemon(config) as daemon, watched(daemon):
        answer(daemon)


def test_killed_with_its_guardian_the_next_one_sweeps(tmp_path: Path) -> None:
    config = write_wrapped_config(tmp_path)
    with run_daemon(config) as daemon, watched(daemon) as processes:
        load(daemon)
        # Stopped, so that it has no time to replace the guardian.
        daemon.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED)
        processes.kill(processes.guardian)
        daemon.signal(signal.SIGKILL)
        assert daemon.wait() == -signal.SIGKILL
        (left,) = records_in(tmp_path)
        alive = processes.alive()
        assert len(alive & set(processes.engines)) >= 2, "nothing was left to be swept"
        with run_daemon(config) as successor, watched(successor):
            swept = successor.hear("daemon that is gone")
            assert f"daemon_pid={daemon.process.pid} pids=" in swept
            processes.wait_for_end()
            answer(successor)
            assert left not in records_in(tmp_path)
            # Before the first engine was placed: it may need the memory that was held.
            log = successor.log
            assert log.index("daemon that is gone") < log.index("started an engine")


def test_two_daemons_of_a_user_do_not_touch_each_other(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    configs = []
    for folder in (first, second):
        folder.mkdir()
        configs.append(write_wrapped_config(folder))
    state = str(tmp_path / "state")
    with run_daemon(configs[0], STATE_DIRECTORY=state) as daemon, watched(daemon) as processes:
        (stream, *_) = load(daemon)
        for _ in range(2):
            with (
                run_daemon(configs[1], STATE_DIRECTORY=state) as other,
                watched(other) as others,
            ):
                answer(other)
                other.signal(signal.SIGKILL)
                other.wait()
                others.wait_for_end()
            assert len(processes.alive()) == 4
        assert stream.readline()
        assert daemon.ask("GET", "/health").status == 200
        assert "daemon that is gone" not in daemon.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_no_process_no_guardian_and_no_record(
    tmp_path: Path, number: signal.Signals
) -> None:
    with (
        run_daemon(write_wrapped_config(tmp_path)) as daemon,
        watched(daemon) as processes,
    ):
        (record,) = records_in(tmp_path)
        wait_until_recorded(record, daemon.hear_engine())
        daemon.signal(number)
        assert daemon.wait() == 0
        assert processes.alive() == set()
        assert records_in(tmp_path) == []
        assert "guardian" not in daemon.log


def wait_until_recorded(path: Path, engine: int) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while (record := read_record(path)) is None or engine not in record.sessions:
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


def test_an_engine_gets_a_mark_that_is_no_secret(tmp_path: Path) -> None:
    with run_daemon(write_wrapped_config(tmp_path)) as daemon, watched(daemon) as processes:
        environ = Path(f"/proc/{daemon.hear_engine()}/environ").read_bytes()
        variables = dict(variable.split(b"=", 1) for variable in environ.split(b"\0") if variable)
        mark = variables[b"ORCHD_ENGINE"].decode()
        assert variables[b"LLAMA_API_KEY"].decode() not in mark
        (record,) = records_in(tmp_path)
        assert mark.partition("-")[0] in record.name
        guardian = Path(f"/proc/{processes.guardian}/environ").read_bytes()
        assert b"ORCHD" not in guardian


def test_without_a_place_for_records_it_serves_and_is_guarded(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.touch()
    config = write_wrapped_config(tmp_path)
    with (
        run_daemon(config, STATE_DIRECTORY=str(state)) as daemon,
        watched(daemon) as processes,
    ):
        daemon.hear(f"cannot keep a record of engines in {state}/engines: Not a directory")
        answer(daemon)
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        processes.wait_for_end()

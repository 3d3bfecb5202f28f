"""One replica on a real process: every way up, every way down, and what is left after it."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchd.engines.adapter import Endpoint
from orchd.engines.client import exchange
from orchd.engines.llamacpp import LlamaCpp
from orchd.runner.allowed import CPU
from orchd.runner.attempt import Attempt
from orchd.runner.devices import DeviceMonitor
from orchd.runner.exit_status import ExitStatus
from orchd.runner.guard import Guard
from orchd.runner.incident import IncidentLog
from orchd.runner.lifecycle import State
from orchd.runner.placement import ReplicaPlan
from orchd.runner.ports import HOST
from orchd.runner.replica import Replica
from orchd.runner.resources import Resources
from orchd.runner.restart import RestartPolicy, Timing
from tests.conftest import Drive
from tests.fakes.engines import install_engine, list_session, write_model
from tests.runner.pools import make_pool
from tests.runner.stage import (
    PATIENT,
    QUICK,
    IdleGate,
    RememberingReckoner,
    see_no_gpu,
    staged,
    until,
)

# -- up ----------------------------------------------------------------------------------------


def test_it_becomes_ready_and_opens_its_slots(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            status = stage.only
            assert (status.replica_id, status.device) == ("chat-0", "cpu")
            assert (status.restarts, status.reason) == (0, None)
            assert status.engine_version == "fake-1"
            assert list(stage.open) == ["chat-0"]
            answer = await exchange(stage.open["chat-0"], LlamaCpp().identity_request())
            assert answer.status == 200
        assert stage.status.incidents == (), "a stop is no incident"

    drive(scenario())


def test_the_kernels_list_of_sockets_is_not_read_on_the_loop(
    drive: Drive[None], tmp_path: Path
) -> None:
    """It has a line for each connection of the machine: thousands hold up a loop for long."""
    readers: list[int] = []
    is_over = False

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        # A hook cannot be taken away again.
        if not is_over and event == "open" and str(arguments[0]).startswith("/proc/net/tcp"):
            readers.append(threading.get_ident())

    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)

    sys.addaudithook(hear)
    try:
        drive(scenario())
    finally:
        is_over = True
    assert readers and threading.get_ident() not in readers


def test_its_key_is_on_no_command_line_and_in_no_log(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            key = stage.open["chat-0"].key
            assert len(key) > 32
            command_line = (Path("/proc") / str(stage.only.pid) / "cmdline").read_bytes()
            assert b"--model" in command_line
            assert key.encode() not in command_line
            assert key not in caplog.text
            assert key not in repr(stage.open)

    drive(scenario())


def test_without_its_key_the_engine_answers_nobody(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            own = stage.open["chat-0"]
            other = Endpoint(own.replica_id, own.host, own.port, "another key")
            answer = await exchange(other, LlamaCpp().identity_request())
            assert answer.status == 401

    drive(scenario())


def test_a_slow_load_that_says_something_is_waited_for(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, load_stall_s=0.8, load_s=1.6, load_lines=16) as stage:
            await stage.reach(State.READY)

    drive(scenario())


# -- failures ----------------------------------------------------------------------------------


def test_an_exit_at_load_is_tried_again(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, exit_once=tmp_path / "failed") as stage:
            await stage.reach(State.READY)
            assert (stage.only.restarts, stage.only.has_failed) == (1, False)
            assert stage.supervisor.retry_s("chat") is None

    drive(scenario())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        pytest.param(
            {"exit_at_load": "error: no room for the KV cache"},
            "exited with code 1: error: no room for the KV cache",
            id="exit at load",
        ),
        pytest.param(
            {"exit_unended": "ggml fatal error: unended"},
            "was ended by SIGABRT: ggml fatal error: unended",
            id="crash without a line's end",
        ),
        pytest.param(
            {"model": "/other.gguf"},
            "answers for another model, /other.gguf",
            id="another model",
        ),
        pytest.param(
            {"key": "another"},
            "answered HTTP 401 when asked who it is",
            id="another key",
        ),
        pytest.param(
            {"prompt": "[exit 0]"},
            "exited with code 1: error: asked to exit",
            id="exit at the first token",
        ),
        pytest.param(
            {"prompt": "[refuse]"},
            "refused to make a first token: request exceeds the available context size",
            id="no first token",
        ),
    ],
)
def test_why_it_failed_is_told(
    drive: Drive[None],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    fault: Any,
    reason: str,
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, **fault) as stage:
            await stage.reach(State.BACKOFF)
            status = stage.only
            assert (status.device, status.pid) == (None, None)
            told, _, again = (status.reason or "").rpartition("; ")
            # What broke the stream is told too, where that was heard of before the exit.
            assert told == reason or told.endswith(f"; then {reason}")
            assert again.startswith("tries again in ")
            assert told in caplog.text
            assert "Traceback" not in caplog.text

    drive(scenario())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"never_healthy": 1}, "made no progress at loading for 0.5 s"),
        ({"prompt": "[hang 0]"}, "loaded, but made no token in 0.5 s"),
    ],
)
def test_a_load_that_stands_still_has_failed(
    drive: Drive[None], tmp_path: Path, fault: Any, reason: str
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, load_stall_s=0.5, **fault) as stage:
            await stage.reach(State.BACKOFF)
            assert (stage.only.reason or "").startswith(reason)

    drive(scenario())


def test_a_model_that_is_not_there_is_told(drive: Drive[None], tmp_path: Path) -> None:
    model = tmp_path / "no.gguf"
    pool = make_pool(model=model, binary=install_engine(tmp_path))

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool) as stage:
            await stage.reach(State.BACKOFF)
            reason = stage.only.reason or ""
            assert reason.startswith(f"model {model}: No such file or directory; write the path")
            assert reason.endswith("; tries again in 600 s")
            assert (stage.only.restarts, stage.only.has_failed) == (0, True)
            retry_s = stage.supervisor.retry_s("chat")
            assert retry_s is not None and 1 < retry_s <= 600
            write_model(tmp_path)

    drive(scenario())


def test_a_program_that_is_not_there_is_told(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(model=write_model(tmp_path), binary=tmp_path / "no")

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool) as stage:
            await stage.reach(State.BACKOFF)
            reason = stage.only.reason or ""
            assert reason.startswith(f"no executable {tmp_path / 'no'}; write as the pool's binary")
            assert reason.endswith("; tries again in 600 s")
            assert stage.only.restarts == 0

    drive(scenario())


def test_what_nobody_thought_of_at_the_spawn_is_tried_again(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A NUL cannot come from the configuration; it stands for any bug on the way to a process."""
    nul = {"EXTRA": "\0"}
    pool = make_pool(model=write_model(tmp_path), binary=install_engine(tmp_path), env=nul)

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool) as stage:
            await stage.reach(State.BACKOFF)
            assert stage.only.reason == "a bug in orchd; tries again in 600 s"
            assert "ValueError" in caplog.text

    drive(scenario())


def test_a_port_that_is_stolen_is_not_taken_for_the_engine(
    drive: Drive[None], tmp_path: Path
) -> None:
    """Whoever listens there does not know the key; the engine itself says that it cannot."""

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, load_s=30) as stage:
            await stage.reach(State.LOADING)
            await until(lambda: find_port(stage.only.pid) is not None)
            port = find_port(stage.only.pid)
            stage.kill_engine()
            await stage.reach(State.BACKOFF)
            with socket.create_server((HOST, port or 0)):
                pass  # it is free again

    drive(scenario())


def find_port(pid: int | None) -> int | None:
    """The port on an engine's command line."""
    words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    return int(words[words.index(b"--port") + 1]) if b"--port" in words else None


# -- crashes -----------------------------------------------------------------------------------


def test_a_crash_closes_the_slots_and_it_comes_back(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            first = stage.open["chat-0"]
            stage.kill_engine()
            await until(lambda: stage.opened == 2)
            assert stage.only.restarts == 1
            assert stage.open["chat-0"].key != first.key

    drive(scenario())


def test_who_was_killed_is_not_said_to_have_told_why(drive: Drive[None], tmp_path: Path) -> None:
    """What it had once called an error was another matter."""
    talker = tmp_path / "talker"
    talker.write_text(
        "#!/bin/sh\necho 'error: of long ago'\necho serving\n"
        f'exec {install_engine(tmp_path)} "$@"\n'
    )
    talker.chmod(0o755)
    pool = make_pool(model=write_model(tmp_path), binary=talker)

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool) as stage:
            await stage.reach(State.READY)
            stage.kill_engine()
            await stage.reach(State.BACKOFF)
            (incident,) = stage.status.incidents
            assert incident.last_lines == ("error: of long ago", "serving")
            assert incident.cause == "was ended by SIGKILL: serving"

    drive(scenario())


def test_one_that_is_reported_as_stuck_is_started_afresh(
    drive: Drive[None], tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            first = stage.only.pid
            stage.supervisor.report_stuck("chat", "chat-0", "worked on for nobody")
            assert stage.open == {}, "closed before anything else is granted on it"
            status = stage.only
            assert (status.state, status.reason) == (State.STOPPING, "worked on for nobody")
            stage.supervisor.report_stuck("chat", "chat-0", "and again")
            await until(lambda: stage.opened == 2)
            assert stage.only.pid != first and stage.only.restarts == 1
            (incident,) = stage.status.incidents
            assert incident.cause == "worked on for nobody"
            assert incident.exit_status == ExitStatus(None, "SIGKILL"), "no grace for what hangs"

    drive(scenario())


def test_an_action_that_fails_does_not_keep_the_others_from_being_done(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            stage.open.clear()  # so that closing the slots is a bug
            stage.kill_engine()
            await until(lambda: stage.opened == 2)
            assert "KeyError" in caplog.text

    drive(scenario())


def test_backoff_doubles_also_where_no_device_is_found_after_a_healthy_run(
    drive: Drive[None], tmp_path: Path
) -> None:
    timing = Timing(RestartPolicy(0, 0.02, 600, healthy_after_s=0.001))
    model = tmp_path / "model.gguf"

    async def scenario() -> None:
        async with staged(tmp_path, timing) as stage:
            await stage.reach(State.READY)
            await asyncio.sleep(0.01)
            model.unlink()
            stage.kill_engine()
            # Doubled four times from 0.02 s; were it reset each time, it would stay there.
            await until(lambda: "again in 1 s" in (stage.only.reason or ""))

    drive(scenario())


# -- down --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "faults"),
    [
        (State.PLACING, {}),
        (State.LOADING, {"load_s": 30}),
        (State.READY, {}),
        (State.STOPPING, {"model": "other", "ignore_sigterm": 1}),
        (State.BACKOFF, {"exit_at_load": "no"}),
    ],
)
def test_it_can_be_stopped_in_every_state(
    drive: Drive[None], tmp_path: Path, state: State, faults: Any
) -> None:
    timing = Timing(PATIENT.restart, stop_grace_s=0.1 if state is State.STOPPING else 5.0)

    async def scenario() -> None:
        async with staged(tmp_path, timing, **faults) as stage:
            await stage.reach(state)

    drive(scenario())


def test_it_can_be_stopped_at_any_moment(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        for n in range(12):
            async with staged(tmp_path, QUICK, prompt="[exit 0]") as stage:
                for _ in range(n * n * 3):
                    await asyncio.sleep(0)
                await asyncio.sleep(n * 0.015)
                stage.statuses()

    drive(scenario())


def test_a_retry_that_was_due_does_not_come_after_the_stop(
    drive: Drive[None], tmp_path: Path
) -> None:
    timing = Timing(RestartPolicy(first_delay_s=0.2, longest_delay_s=0.2))

    async def scenario() -> None:
        complaints: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with staged(tmp_path, timing, exit_at_load="no") as stage:
            await stage.reach(State.BACKOFF)
        await asyncio.sleep(0.25)
        assert stage.only.state is State.DOWN
        assert complaints == []

    drive(scenario())


def test_a_stop_twice_at_once_is_one(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            await asyncio.gather(stage.supervisor.stop(), stage.supervisor.stop())

    drive(scenario())


def test_who_waits_for_its_stop_is_told_of_it_though_it_is_wanted_again_meanwhile(
    drive: Drive[None], tmp_path: Path
) -> None:
    pool = make_pool(model=write_model(tmp_path), binary=install_engine(tmp_path))
    gate = IdleGate()

    async def scenario() -> None:
        guard, monitor = Guard(None), DeviceMonitor(see_no_gpu)
        resources = Resources(monitor, RememberingReckoner(), cpu_replicas=1)
        start = partial(Attempt, pool, LlamaCpp(), resources, guard)
        plan = ReplicaPlan("chat-0", (CPU,))
        replica = Replica(plan, pool, start, resources, gate, QUICK, IncidentLog())
        replica.want()
        await until(lambda: len(gate.opened) == 1)
        stopping = asyncio.create_task(replica.unwant())
        await asyncio.sleep(0)
        assert replica.status().state is State.STOPPING
        replica.want()
        await until(lambda: len(gate.opened) == 2)
        assert stopping.done()
        await replica.unwant()
        assert resources.is_untouched
        await until(lambda: len(asyncio.all_tasks()) == 1)

    drive(scenario())


def test_an_engine_that_ignores_sigterm_goes_with_its_grandchildren(
    drive: Drive[None], tmp_path: Path
) -> None:
    async def scenario() -> None:
        timing = Timing(stop_grace_s=0.1)
        async with staged(tmp_path, timing, ignore_sigterm=1, grandchild=1) as stage:
            await stage.reach(State.READY)
            pid = stage.only.pid or 0
            assert len(list_session(pid)) == 2
        assert list_session(pid) == []

    drive(scenario())


def test_a_hurried_stop_does_not_wait_for_the_grace(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        timing = Timing(stop_grace_s=600)
        async with staged(tmp_path, timing, ignore_sigterm=1) as stage:
            await stage.reach(State.READY)
            stage.supervisor.hurry()  # nothing is being stopped yet
            answer = await exchange(stage.open["chat-0"], LlamaCpp().identity_request())
            assert answer.status == 200
            stopping = asyncio.ensure_future(stage.supervisor.stop())
            await stage.reach(State.STOPPING)
            assert "stopping for" in (stage.only.reason or "")
            stage.supervisor.hurry()
            await stopping

    drive(scenario())


# -- its log -----------------------------------------------------------------------------------


def test_a_flood_of_output_is_limited_in_our_log(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "orchd.runner.attempt")

    async def scenario() -> None:
        async with staged(tmp_path, flood_bytes=300_000_000) as stage:
            await stage.reach(State.READY)
            await until(lambda: "lines left out" in caplog.text)

    drive(scenario())
    assert len(caplog.text) < 300_000

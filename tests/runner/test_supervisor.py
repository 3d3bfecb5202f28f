"""All replicas together: many at once, on cards that come and go, and the reasons for the user."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from orchd.config.model import PoolConfig
from orchd.runner.exit_status import ExitStatus
from orchd.runner.footprint import MIB
from orchd.runner.lifecycle import State
from orchd.runner.restart import Timing
from orchd.runner.snapshot import NoReading
from orchd.runner.status import ReplicaStatus
from tests.conftest import Drive
from tests.fakes.engines import install_engine, list_session, write_model
from tests.fakes.nvml import FakeNvml, card, uuid_of
from tests.runner.pools import make_pool
from tests.runner.stage import PATIENT, QUICK, RememberingReckoner, Stage, staged, until

NO_DRIVER = "the NVIDIA driver is installed but not loaded"


@pytest.fixture
def nvml(tmp_path: Path) -> FakeNvml:
    """Two cards of 8 GiB."""
    return FakeNvml(tmp_path / "machine", [card(0, 8), card(1, 8)])


def gpu_pool(
    nvml: FakeNvml,
    *,
    replicas: int | Literal["per-device"] = 1,
    devices: tuple[str, ...] = ("auto",),
    vram_mib: int = 5000,
    takes_mib: int = 4000,
    lag_ms: int = 0,
    **faults: object,
) -> PoolConfig:
    """A pool on the fake engine that takes memory of its card."""
    folder = nvml.folder.parent
    told: dict[str, Any] = nvml.engine_faults(takes_mib, lag_ms) | faults
    return make_pool(
        model=write_model(folder),
        binary=install_engine(folder),
        replicas=replicas,
        devices=devices,
        vram_mib=vram_mib,
        env={f"FAKE_{name.upper()}": str(value) for name, value in told.items()},
    )


def devices_of(stage: Stage) -> list[str | None]:
    return [status.device for status in stage.statuses()]


def states_of(stage: Stage) -> list[State]:
    return sorted(status.state for status in stage.statuses())


def test_many_replicas_come_up_crash_and_go_at_once(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(
        model=write_model(tmp_path), binary=install_engine(tmp_path), replicas=8, vram_mib=1
    )

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool) as stage:
            await stage.reach(State.READY)
            assert len({endpoint.port for endpoint in stage.open.values()}) == 8
            assert len({endpoint.key for endpoint in stage.open.values()}) == 8
            stage.kill_all()
            await until(lambda: stage.opened == 16)
            assert [status.restarts for status in stage.statuses()] == [1] * 8
            stage.kill_all()
            await asyncio.sleep(0.01)

    drive(scenario())


# -- one replica per device --------------------------------------------------------------------


def test_each_replica_of_a_pool_per_device_sees_its_own_card(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml
) -> None:
    pool = gpu_pool(nvml, replicas="per-device")

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: states_of(stage) == [State.READY] * 2)
            assert devices_of(stage) == [uuid_of(0), uuid_of(1)]
            for status in stage.statuses():
                environment = read_environment(status.pid)
                assert environment["CUDA_VISIBLE_DEVICES"] == status.device
                assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
                assert not [n for n in environment if n.startswith("LLAMA_ARG")]

    drive(scenario())


def read_environment(pid: int | None) -> dict[str, str]:
    lines = (Path("/proc") / str(pid) / "environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def test_a_card_that_comes_gets_its_replica_and_one_that_goes_keeps_it_waiting(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml
) -> None:
    pool = gpu_pool(nvml, replicas="per-device")
    first, second = nvml.cards
    nvml.cards = []

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: stage.statuses() != ())
            none = ReplicaStatus(
                *("chat-0", pool.model, None, State.BACKOFF, None, 0),
                *("there is no NVIDIA GPU", None, True),
            )
            assert stage.statuses() == (none,)
            nvml.cards = [first]
            await until(lambda: stage.only.state is State.READY)
            assert devices_of(stage) == [first.uuid]
            nvml.cards = [second, first]
            await until(lambda: states_of(stage) == [State.READY] * 2)
            assert [status.replica_id for status in stage.statuses()] == ["chat-0", "chat-1"]
            assert devices_of(stage) == [first.uuid, second.uuid]
            nvml.cards = [second]
            await until(lambda: states_of(stage) == [State.BACKOFF, State.READY])
            await until(
                lambda: "is no longer among the NVIDIA" in (stage.statuses()[0].reason or "")
            )
            assert devices_of(stage) == [None, second.uuid]
            nvml.cards = [first, second]
            await until(lambda: states_of(stage) == [State.READY] * 2)
            assert devices_of(stage) == [first.uuid, second.uuid]

    drive(scenario())


def test_without_a_driver_its_pools_wait_and_come_up_with_it(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pool = gpu_pool(nvml, replicas="per-device")
    nvml.reason = NO_DRIVER

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: stage.supervisor.snapshot.reason == NO_DRIVER)
            assert stage.supervisor.explain("chat") == f"replica chat-0: {NO_DRIVER}"
            nvml.reason = None
            await until(lambda: states_of(stage) == [State.READY] * 2)

    drive(scenario())
    assert f"cannot see any GPU: {NO_DRIVER}" in caplog.text


# -- room --------------------------------------------------------------------------------------


def test_what_does_not_fit_waits_says_why_and_loads_once_there_is_room(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml
) -> None:
    pool = gpu_pool(nvml, replicas=3)

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: states_of(stage) == [State.BACKOFF, State.READY, State.READY])
            reason = stage.supervisor.explain("chat")
            assert "needs 4.9 GiB (vram_mib of the configuration)" in reason
            assert "available of 8.0 GiB, 4.9 GiB reserved by chat-" in reason
            assert "tries again in " in reason
            nvml.cards.append(card(2, 8))
            await stage.reach(State.READY)
            assert sorted(devices_of(stage), key=str) == [uuid_of(n) for n in range(3)]

    drive(scenario())


def test_a_neighbour_that_leaves_makes_room(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml
) -> None:
    pool = gpu_pool(nvml, devices=("0",))
    nvml.change(0, used_mib=7000)

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.BACKOFF)
            assert "has 1.2 GiB available of 8.0 GiB" in (stage.only.reason or "")
            nvml.change(0, used_mib=100)
            await stage.reach(State.READY)
            assert devices_of(stage) == [uuid_of(0)]

    drive(scenario())


def test_a_crash_makes_room_only_once_its_memory_is_back(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine's memory lags: were it not waited for, the next try would find no room."""
    pool = gpu_pool(nvml, devices=("0",), takes_mib=5000, lag_ms=600)

    async def scenario() -> None:
        async with staged(tmp_path, QUICK, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            stage.kill_engine()
            await until(lambda: stage.opened == 2)
            assert stage.only.restarts == 1
        assert caplog.text.count("lost an engine") == 1
        assert "could not start" not in caplog.text, "no lack of room after the crash"

    drive(scenario())


def test_a_death_is_recorded_with_the_memory_before_and_after(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    pool = gpu_pool(nvml, devices=("0",), takes_mib=5000, lag_ms=200)

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            stage.tasks = ("a task", "another")
            pid = stage.only.pid
            stage.kill_engine()
            await stage.reach(State.BACKOFF)
            (death,) = stage.status.incidents
            assert (death.pid, death.device, death.tasks) == (pid, uuid_of(0), stage.tasks)
            assert death.memory_before_bytes == 5000 * MIB
            assert death.memory_after_bytes is None, "its memory is not back yet"
            assert death.last_lines == () and death.ready_s > 0
            assert death.exit_status == ExitStatus(None, "SIGKILL")

            def is_told() -> bool:
                return stage.status.incidents[0].memory_after_bytes == 0

            await until(is_told)
            (line,) = [line for line in caplog.messages if "lost an engine" in line]
            who = f"pool=chat replica=chat-0 device={uuid_of(0)} pid={pid}"
            assert line.startswith(f"lost an engine {who} ready_s=")
            assert line.endswith(" tasks=2: was ended by SIGKILL: it said nothing")

    drive(scenario())


def forbid_to_run(program: Path) -> None:
    program.chmod(0)


def test_a_try_without_a_process_tells_nothing_of_an_earlier_death(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml
) -> None:
    """It was on another card, and gives that back before the first one has its memory back."""
    pool = gpu_pool(nvml, lag_ms=1000)
    assert pool.binary is not None
    program = Path(pool.binary)

    async def scenario() -> None:
        async with staged(tmp_path, QUICK, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            (there,) = devices_of(stage)
            for place, one in enumerate(nvml.cards):
                if one.uuid != there:
                    nvml.change(place, used_mib=100)
            forbid_to_run(program)
            stage.kill_engine()
            await until(lambda: "no executable" in (stage.only.reason or ""))

            def after() -> int | None:
                return stage.status.incidents[0].memory_after_bytes

            await until(lambda: after() is not None)
            assert after() == 0

    drive(scenario())


@pytest.fixture
def unkillable(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """SIGKILL does nothing, as to a process that waits for its driver; calling it lets it through.

    Such a process cannot be made: the signal is kept from it instead.
    """
    kept: list[int] = []
    kill = os.killpg

    def hold_back(group: int, number: int) -> None:
        if number == signal.SIGKILL:
            kept.append(group)
        else:
            kill(group, number)

    def let_through() -> None:
        monkeypatch.setattr(os, "killpg", kill)
        for group in kept:
            with contextlib.suppress(ProcessLookupError):
                kill(group, signal.SIGKILL)

    monkeypatch.setattr(os, "killpg", hold_back)
    yield let_through
    let_through()


def test_one_that_cannot_be_killed_keeps_what_it_holds_and_its_card_is_shunned(
    drive: Drive[None],
    tmp_path: Path,
    nvml: FakeNvml,
    unkillable: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    timing = replace(QUICK, stop_grace_s=0.01, kill_timeout_s=0.01)
    pool = gpu_pool(nvml, replicas=1, takes_mib=4000)

    async def scenario() -> None:
        async with staged(tmp_path, timing, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            (device, pid) = stage.only.device, stage.only.pid
            port = stage.open["chat-0"].port
            stage.supervisor.report_stuck("chat", "chat-0", "hangs")
            await until(lambda: stage.opened == 2)
            assert stage.only.device != device, "tried again elsewhere"
            (death,) = stage.status.incidents
            assert death.cause == "hangs; its process cannot be killed"
            assert (death.exit_status, death.memory_after_bytes) == (None, None)
            shunned = next(d for d in stage.supervisor.devices() if d.device == device)
            assert shunned.reason == f"an engine of replica chat-0 (pid {pid}) cannot be killed"
            assert shunned.reserved_bytes == 5000 * MIB
            assert list_session(pid or 0) == [pid]
            assert stage.open["chat-0"].port != port
            unkillable()
            await until(lambda: all(d.reason is None for d in stage.supervisor.devices()))
            await until(lambda: stage.supervisor.devices()[shunned.index].reserved_bytes == 0)
            assert f"is gone after all pid={pid}" in caplog.text
            (death,) = stage.status.incidents
            assert death.memory_after_bytes == 0, "told when it is back after all"

    drive(scenario())


def test_a_pool_whose_only_card_is_shunned_says_so_and_waits(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, unkillable: Callable[[], None]
) -> None:
    timing = replace(PATIENT, stop_grace_s=0.01, kill_timeout_s=0.01)
    pool = gpu_pool(nvml, devices=("0",))

    async def scenario() -> None:
        quick = replace(timing, restart=QUICK.restart)
        async with staged(tmp_path, quick, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            stage.supervisor.report_stuck("chat", "chat-0", "hangs")
            await until(lambda: "cannot be killed; tries" in (stage.only.reason or ""))
            await until(lambda: "GPU 0" in (stage.only.reason or ""))
            assert "an engine of replica chat-0" in (stage.only.reason or "")
            unkillable()
            await until(lambda: stage.opened == 2)

    drive(scenario())


def test_a_stop_does_not_wait_for_ever_for_one_that_cannot_be_killed(
    drive: Drive[None], tmp_path: Path, unkillable: Callable[[], None]
) -> None:
    timing = Timing(stop_grace_s=0.01, kill_timeout_s=0.01)

    async def scenario() -> None:
        async with staged(tmp_path, timing, ignore_sigterm=1) as stage:
            await stage.reach(State.READY)
            pid = stage.only.pid or 0
            async with asyncio.timeout(30):
                await stage.supervisor.stop()
            assert stage.only.state is State.DOWN
            (death,) = stage.status.incidents
            assert death.cause == "was to stop; its process cannot be killed"
            assert list_session(pid) == [pid]
            unkillable()
            await until(lambda: stage.supervisor.holds_nothing)

    drive(scenario())


# -- the memory must rise where it should ------------------------------------------------------


@pytest.mark.parametrize("untold", [0, 1], ids=["told by process", "told by card"])
def test_a_load_on_the_cpu_is_found_out_and_tried_again(
    drive: Drive[None],
    tmp_path: Path,
    nvml: FakeNvml,
    caplog: pytest.LogCaptureFixture,
    untold: int,
) -> None:
    reckoner = RememberingReckoner()
    nvml.change(0, untold=untold)
    pool = gpu_pool(nvml, devices=("0",), cpu_once=tmp_path / "once")

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read, reckoner=reckoner) as stage:
            await stage.reach(State.READY)
            assert stage.only.restarts == 1

    drive(scenario())
    assert f"loaded on the CPU instead of {uuid_of(0)}: its memory rose by 0.0 GiB" in caplog.text
    assert [took for _, took in reckoner.measured] == [4000 << 20]


# -- a card that is lost -----------------------------------------------------------------------


@pytest.mark.parametrize("load_s", [0, 60], ids=["ready", "loading"])
def test_a_replica_whose_card_is_lost_goes_to_another(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, load_s: int
) -> None:
    pool = gpu_pool(nvml, devices=("0", "1"), load_s=load_s)
    nvml.change(1, used_mib=500)
    state = State.LOADING if load_s else State.READY

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(state)
            assert devices_of(stage) == [uuid_of(0)]
            nvml.change(0, handle_code=15)
            await until(lambda: stage.only.device == uuid_of(1))
            await stage.reach(state)

    drive(scenario())


async def sample(stage: Stage, times: int) -> None:
    """Let so many readings pass."""
    for _ in range(times):
        before = stage.supervisor.snapshot
        await until(lambda before=before: stage.supervisor.snapshot is not before)  # type: ignore[misc]


def test_a_card_that_only_errs_keeps_the_replica_that_runs_there(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml
) -> None:
    pool = gpu_pool(nvml, devices=("0",))

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            nvml.change(0, handle_code=999)
            await sample(stage, 5)
            assert stage.supervisor.snapshot.find(uuid_of(0)) is None
            nvml.reason = NO_DRIVER
            await sample(stage, 5)
            assert stage.supervisor.snapshot.gpus == ()
            nvml.reason = None
            nvml.change(0, handle_code=0)
            await sample(stage, 2)
            assert stage.supervisor.snapshot.find(uuid_of(0)) is not None
            assert (stage.only.state, stage.only.restarts) == (State.READY, 0)

    drive(scenario())


def test_devices_are_shown_as_they_were_seen_last(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml
) -> None:
    async def scenario() -> None:
        pool = gpu_pool(nvml, devices=("0",))
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            await until(lambda: stage.supervisor.devices()[0].free_bytes == 4192 << 20)
            first, second = stage.supervisor.devices()
            assert (first.device, first.index, first.reason) == (uuid_of(0), 0, None)
            assert second.free_bytes == second.total_bytes == 8 << 30

    drive(scenario())


def test_before_it_is_started_the_reason_is_that_it_is_not(drive: Drive[None]) -> None:
    async def scenario() -> None:
        counts: tuple[int | Literal["per-device"], ...] = (1, "per-device")
        for replicas in counts:
            pool = make_pool(replicas=replicas)
            stage = Stage(pool, (), PATIENT, lambda: NoReading(NO_DRIVER), RememberingReckoner())
            assert stage.supervisor.explain("chat") == "its replicas are being planned"
            await stage.supervisor.stop()

    drive(scenario())

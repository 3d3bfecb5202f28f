"""All replicas together: many at once, on cards that come and go, and the reasons for the user."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Literal

import pytest

from orchd.config.model import PoolConfig
from orchd.runner.lifecycle import State
from orchd.runner.snapshot import NoReading
from orchd.runner.status import ReplicaStatus
from tests.conftest import Drive
from tests.fakes.engines import install_engine, write_model
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
                *("chat-0", None, State.BACKOFF, None, 0, "there is no NVIDIA GPU", None, True)
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
        assert caplog.text.count("tries again") == 1, "the crash, and no lack of room after it"

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
            stage = Stage(pool, PATIENT, lambda: NoReading(NO_DRIVER), RememberingReckoner())
            assert stage.supervisor.explain("chat") == "its replicas are being planned"
            await stage.supervisor.stop()

    drive(scenario())

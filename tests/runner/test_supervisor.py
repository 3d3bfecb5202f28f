"""All replicas together: many at once, and the reasons for the user."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from orchd.errors import HostError
from orchd.runner.lifecycle import State
from orchd.runner.placement import Gpu
from tests.conftest import Drive
from tests.fakes.engines import install_engine, write_model
from tests.runner.pools import make_pool
from tests.runner.stage import PATIENT, Stage, staged, until

GIB = 1 << 30


def see_two_gpus() -> tuple[Gpu, ...]:
    return tuple(Gpu(f"GPU-{n}", n, f"card {n}", 8 * GIB, 8 * GIB) for n in range(2))


def see_no_driver() -> tuple[Gpu, ...]:
    raise HostError("the NVIDIA driver is installed but not loaded")


def test_many_replicas_come_up_crash_and_go_at_once(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(model=write_model(tmp_path), binary=install_engine(tmp_path), replicas=8)

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


def test_each_replica_of_a_pool_per_device_sees_its_own_card(
    drive: Drive[None], tmp_path: Path
) -> None:
    pool = make_pool(
        model=write_model(tmp_path),
        binary=install_engine(tmp_path),
        replicas="per-device",
        devices=("auto",),
    )

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, sample_gpus=see_two_gpus) as stage:
            await stage.reach(State.READY)
            assert [status.device for status in stage.statuses()] == ["GPU-0", "GPU-1"]
            for status in stage.statuses():
                environment = read_environment(status.pid)
                assert environment["CUDA_VISIBLE_DEVICES"] == status.device
                assert not [n for n in environment if n.startswith("LLAMA_ARG")]

    drive(scenario())


def read_environment(pid: int | None) -> dict[str, str]:
    lines = (Path("/proc") / str(pid) / "environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if line)


def test_what_does_not_fit_waits_and_says_why(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(
        model=write_model(tmp_path),
        binary=install_engine(tmp_path),
        replicas=3,
        devices=("auto",),
        vram_mib=5000,
    )

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool, sample_gpus=see_two_gpus) as stage:
            await until(
                lambda: (
                    sorted(s.state for s in stage.statuses())
                    == [State.BACKOFF, State.READY, State.READY]
                )
            )
            reason = stage.supervisor.explain("chat")
            assert "needs 4.9 GiB (vram_mib of the configuration)" in reason
            assert "has 3.1 GiB available; tries again in 600 s" in reason

    drive(scenario())


def test_without_a_driver_the_reason_is_told_for_each_replica(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    pool = make_pool(model=write_model(tmp_path), replicas="per-device", devices=("auto",))

    async def scenario() -> None:
        async with staged(tmp_path, PATIENT, pool=pool, sample_gpus=see_no_driver) as stage:
            await stage.reach(State.BACKOFF)
            expected = "the NVIDIA driver is installed but not loaded; tries again in 600 s"
            assert stage.supervisor.explain("chat") == f"replica chat-0: {expected}"

    drive(scenario())
    assert "could not see the GPUs to plan replicas for" in caplog.text


def test_before_it_is_started_the_reason_is_that_it_is_not(drive: Drive[None]) -> None:
    async def scenario() -> None:
        stage = Stage(make_pool(), PATIENT, see_no_driver)
        assert stage.supervisor.explain("chat") == "its replicas are being planned"
        await stage.supervisor.stop()

    drive(scenario())

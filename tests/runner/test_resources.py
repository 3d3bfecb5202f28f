"""Leases: what is promised to replicas, and that the machine may refuse or never answer."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from orchd.errors import HostError
from orchd.runner.footprint import MIB
from orchd.runner.learned import Learned
from orchd.runner.placement import Gpu, NoFit, ReplicaPlan
from orchd.runner.resources import Lease, Resources
from tests.conftest import Drive
from tests.fakes.engines import write_model
from tests.runner.pools import make_pool

AUTO = ReplicaPlan("chat-0", ("auto",))
CPU = ReplicaPlan("chat-0", ("cpu",))


def see_one_gpu() -> tuple[Gpu, ...]:
    return (Gpu("GPU-0", 0, "card", 8192 * MIB, 8192 * MIB),)


def see_none() -> tuple[Gpu, ...]:
    raise HostError("no NVIDIA driver is installed")


def test_replicas_placed_at_once_are_never_promised_the_same_memory(
    drive: Drive[None], tmp_path: Path
) -> None:
    pool = make_pool(model=write_model(tmp_path), vram_mib=3000, devices=("auto",))

    async def scenario() -> None:
        resources = Resources(see_one_gpu, cpu_replicas=0)
        placing = [resources.place(AUTO, pool) for _ in range(5)]
        outcomes = await asyncio.gather(*placing)
        leases = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
        assert len(leases) == 2
        assert len({lease.port for lease in leases}) == 2
        assert len({lease.key for lease in leases}) == 2
        assert not resources.is_untouched
        resources.give_back(leases[0])
        again = await resources.place(AUTO, pool)
        assert isinstance(again, Lease)
        resources.give_back(again)
        resources.give_back(leases[1])
        assert resources.is_untouched

    drive(scenario())


def test_a_placing_that_is_cancelled_holds_nothing(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(model=write_model(tmp_path), devices=("auto",))

    async def scenario() -> None:
        resources = Resources(see_one_gpu, cpu_replicas=0)
        for turns in range(30):
            placing = asyncio.create_task(resources.place(AUTO, pool))
            for _ in range(turns):
                await asyncio.sleep(0)
            if placing.cancel():
                with pytest.raises(asyncio.CancelledError):
                    await placing
            elif isinstance(lease := placing.result(), Lease):
                resources.give_back(lease)
            assert resources.is_untouched

    drive(scenario())


def test_a_lease_does_not_tell_its_key(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(model=write_model(tmp_path))

    async def scenario() -> None:
        lease = await Resources(see_none, cpu_replicas=1).place(CPU, pool)
        assert isinstance(lease, Lease)
        assert lease.key not in repr(lease)
        assert (lease.device, lease.is_cpu_shared) == ("cpu", False)

    drive(scenario())


def test_several_replicas_on_the_cpu_are_told_that_they_share_it(
    drive: Drive[None], tmp_path: Path
) -> None:
    pool = make_pool(model=write_model(tmp_path))

    async def scenario() -> None:
        lease = await Resources(see_none, cpu_replicas=2).place(CPU, pool)
        assert isinstance(lease, Lease)
        assert lease.is_cpu_shared

    drive(scenario())


def test_where_gpus_cannot_be_seen_the_cpu_is_taken_if_it_is_written(
    drive: Drive[None], tmp_path: Path
) -> None:
    pool = make_pool(model=write_model(tmp_path))

    async def scenario() -> None:
        resources = Resources(see_none, cpu_replicas=1)
        lease = await resources.place(ReplicaPlan("chat-0", ("0", "cpu")), pool)
        assert isinstance(lease, Lease)
        assert lease.device == "cpu"
        with pytest.raises(HostError, match="no NVIDIA driver is installed"):
            await resources.place(AUTO, pool)

    drive(scenario())


def test_a_replica_has_the_footprint_of_the_device_that_it_got(
    drive: Drive[None], tmp_path: Path
) -> None:
    """Where both would do, it is reckoned for a GPU first, and anew for the CPU."""
    pool = make_pool(model=write_model(tmp_path), devices=("0", "cpu"))
    plan = ReplicaPlan("chat-0", ("0", "cpu"))

    async def scenario() -> None:
        for sample, device, part in [
            (see_one_gpu, "GPU-0", "CUDA context"),
            (see_none, "cpu", "process"),
        ]:
            lease = await Resources(sample, cpu_replicas=1).place(plan, pool)
            assert isinstance(lease, Lease)
            assert lease.device == device
            assert part in [item.what for item in lease.footprint.items]
            assert lease.footprint.key is not None
            assert lease.footprint.key.device_kind == ("cpu" if device == "cpu" else "gpu")

    drive(scenario())


def test_a_measured_footprint_decides_from_then_on(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(model=write_model(tmp_path), devices=("auto",))

    async def scenario() -> None:
        learned = Learned(None)
        resources = Resources(see_one_gpu, cpu_replicas=0, learned=learned)
        first = await resources.place(AUTO, pool)
        assert isinstance(first, Lease) and first.footprint.key is not None
        learned.remember(first.footprint.key, 1500 * MIB)
        second = await resources.place(AUTO, pool)
        assert isinstance(second, Lease)
        assert second.footprint.need_bytes == 1500 * MIB
        for lease in (second, first):
            resources.give_back(lease)
        assert resources.is_untouched

    drive(scenario())


def test_a_file_that_is_no_model_is_told_with_the_mend(drive: Drive[None], tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(1000))

    async def scenario() -> None:
        with pytest.raises(HostError, match=f"^model {model} is not a GGUF file"):
            await Resources(see_none, cpu_replicas=1).place(CPU, make_pool(model=model))

    drive(scenario())


def test_no_room_is_an_answer_and_holds_nothing(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(model=write_model(tmp_path), vram_mib=9000)

    async def scenario() -> None:
        resources = Resources(see_one_gpu, cpu_replicas=0)
        assert isinstance(await resources.place(AUTO, pool), NoFit)
        assert resources.is_untouched

    drive(scenario())


@pytest.mark.parametrize(("kind", "problem"), [("none", "No such file"), ("folder", "Is a dir")])
def test_a_model_that_cannot_be_read_is_the_machines_fault(
    drive: Drive[None], tmp_path: Path, kind: str, problem: str
) -> None:
    pool = make_pool(model=tmp_path if kind == "folder" else tmp_path / "no.gguf")

    async def scenario() -> None:
        with pytest.raises(HostError, match=f"^model {pool.model}: {problem}"):
            await Resources(see_none, cpu_replicas=1).place(CPU, pool)

    drive(scenario())


def test_a_model_on_a_disk_that_does_not_answer_is_given_up(
    drive: Drive[None], tmp_path: Path
) -> None:
    """A FIFO that nobody writes blocks as a dead network disk does."""
    fifo, model = tmp_path / "fifo", write_model(tmp_path)
    os.mkfifo(fifo)

    async def scenario() -> None:
        resources = Resources(see_none, cpu_replicas=1, answer_timeout_s=0.05)
        with pytest.raises(HostError, match=r"its disk did not answer for 0\.05 s"):
            await resources.place(CPU, make_pool(model=fifo))
        # Another model is not held up by it.
        assert isinstance(await resources.place(CPU, make_pool(model=model)), Lease)
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

    drive(scenario())


def test_a_driver_that_does_not_answer_is_given_up_and_asked_once(
    drive: Drive[None], tmp_path: Path
) -> None:
    pool = make_pool(model=write_model(tmp_path), devices=("auto",))
    let_go, calls = threading.Event(), []

    def sample() -> tuple[Gpu, ...]:
        calls.append(threading.current_thread().daemon)
        let_go.wait(30)
        return see_one_gpu()

    async def scenario() -> None:
        resources = Resources(sample, cpu_replicas=0, answer_timeout_s=0.02)
        for _ in range(4):
            with pytest.raises(HostError, match=r"NVML did not answer for 0\.02 s"):
                await resources.place(AUTO, pool)
        assert calls == [True]
        let_go.set()
        while not isinstance(await resources.place(AUTO, pool), Lease):
            pass

    try:
        drive(scenario())
    finally:
        let_go.set()

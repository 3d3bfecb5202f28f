"""Leases: what is promised to replicas, whose turn it is, and that the machine may refuse."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchd.config.model import PoolConfig
from orchd.engines.llamacpp import LlamaCpp
from orchd.errors import EngineError, HostError
from orchd.runner.devices import DeviceMonitor
from orchd.runner.footprint import MIB
from orchd.runner.learned import Learned
from orchd.runner.placement import ReplicaPlan
from orchd.runner.reckoner import Reckoner
from orchd.runner.resources import Lease, NoRoom, Resources
from orchd.runner.snapshot import NoReading, Reading, Unread
from tests.conftest import Drive
from tests.fakes.engines import write_model
from tests.runner.gpus import GIB, gpu
from tests.runner.pools import make_pool
from tests.runner.stage import ReadGpus, RememberingReckoner, until

AUTO = ReplicaPlan("chat-0", ("auto",))
CPU = ReplicaPlan("chat-0", ("cpu",))
NO_DRIVER = NoReading("no NVIDIA driver is installed")


class Cards:
    """Cards of 8 GiB, and what is in use of each."""

    def __init__(self, count: int = 1) -> None:
        self.used_gib = [0.0] * count
        self.told: list[dict[int, float | None]] = [{} for _ in range(count)]
        self.lost: set[int] = set()

    def read(self) -> Reading:
        return [
            Unread("has fallen off the bus", is_lost=True)
            if n in self.lost
            else gpu(n, 8, 8 - used_gib, held=self.told[n])
            for n, used_gib in enumerate(self.used_gib)
        ]


@contextlib.asynccontextmanager
async def opened(
    read: ReadGpus,
    cpu_replicas: int = 0,
    interval_s: float = 3600,
    gpu_timeout_s: float = 30.0,
    reckoner: Reckoner | None = None,
    **more: Any,
) -> AsyncIterator[Resources]:
    monitor = DeviceMonitor(read, interval_s, gpu_timeout_s)
    resources = Resources(monitor, reckoner or RememberingReckoner(), cpu_replicas, **more)
    monitor.start()
    try:
        yield resources
    finally:
        await resources.stop()
        await monitor.stop()


@pytest.fixture
def pool(tmp_path: Path) -> PoolConfig:
    """Needs 3000 MiB; half of its 4000 bytes of weights must rise."""
    return make_pool(model=write_model(tmp_path, 4000), vram_mib=3000, devices=("auto",))


async def place(resources: Resources, pool: PoolConfig, plan: ReplicaPlan = AUTO) -> Lease:
    lease = await resources.place(plan, pool)
    assert isinstance(lease, Lease), lease
    return lease


async def has_place(resources: Resources, count: int) -> None:
    """Until so many have decided; the last ones may wait for their turn."""
    await until(lambda: len(resources.reserved()) == count)


async def spin(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# -- promises ----------------------------------------------------------------------------------


def test_replicas_placed_at_once_are_never_promised_the_same_memory(
    drive: Drive[None], pool: PoolConfig
) -> None:
    async def scenario() -> None:
        async with opened(Cards().read) as resources:
            placing = [asyncio.create_task(resources.place(AUTO, pool)) for _ in range(5)]
            await until(lambda: sum(task.done() for task in placing) == 4)
            # Two have room; the second waits for its turn to load.
            outcomes = [task.result() for task in placing if task.done()]
            (first,) = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
            assert len([outcome for outcome in outcomes if isinstance(outcome, NoRoom)]) == 3
            resources.give_back(first)
            (waited,) = [task for task in placing if task.result is not None and not task.done()]
            second = await waited
            assert isinstance(second, Lease)
            assert first.key != second.key
            third = asyncio.create_task(resources.place(AUTO, pool))
            await has_place(resources, 2)
            assert not third.done(), "it has room and waits for its turn"
            resources.give_back(second)
            resources.give_back(await place_of(third))
            assert resources.is_untouched

    drive(scenario())


async def place_of(placing: asyncio.Task[Lease | NoRoom]) -> Lease:
    lease = await placing
    assert isinstance(lease, Lease)
    return lease


def test_a_placing_that_is_cancelled_holds_nothing(drive: Drive[None], pool: PoolConfig) -> None:
    async def scenario() -> None:
        async with opened(Cards().read) as resources:
            for turns in range(30):
                placing = asyncio.create_task(resources.place(AUTO, pool))
                await spin(turns)
                if placing.cancel():
                    with pytest.raises(asyncio.CancelledError):
                        await placing
                elif isinstance(lease := placing.result(), Lease):
                    resources.give_back(lease)
                assert resources.is_untouched

    drive(scenario())


def test_one_that_waits_for_its_turn_holds_its_place_until_it_is_cancelled(
    drive: Drive[None], pool: PoolConfig
) -> None:
    async def scenario() -> None:
        async with opened(Cards().read) as resources:
            first = await place(resources, pool)
            waiting = asyncio.create_task(resources.place(AUTO, pool))
            await has_place(resources, 2)
            assert isinstance(await resources.place(AUTO, pool), NoRoom)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            resources.give_back(first)
            assert resources.is_untouched

    drive(scenario())


def test_a_lease_does_not_tell_its_key(drive: Drive[None], pool: PoolConfig) -> None:
    async def scenario() -> None:
        async with opened(lambda: NO_DRIVER, cpu_replicas=1) as resources:
            lease = await place(resources, pool, CPU)
            assert lease.key not in repr(lease)
            assert (lease.device, lease.is_cpu_shared) == ("cpu", False)
            resources.give_back(lease)

    drive(scenario())


def test_several_replicas_on_the_cpu_are_told_so_and_wait_for_no_turn(
    drive: Drive[None], pool: PoolConfig
) -> None:
    async def scenario() -> None:
        async with opened(lambda: NO_DRIVER, cpu_replicas=2) as resources:
            leases = [await place(resources, pool, CPU) for _ in range(2)]
            assert [lease.is_cpu_shared for lease in leases] == [True, True]
            for lease in leases:
                resources.give_back(lease)
            assert resources.is_untouched

    drive(scenario())


def test_the_cpu_has_no_room_for_more_than_the_machine_has(
    drive: Drive[None], tmp_path: Path
) -> None:
    pool = make_pool(model=write_model(tmp_path), vram_mib=1_048_576 * 1)

    async def scenario() -> None:
        async with opened(lambda: NO_DRIVER, cpu_replicas=1) as resources:
            outcome = await resources.place(CPU, pool)
            if isinstance(outcome, Lease):
                pytest.skip("this machine has a TiB of memory")
            assert "the CPU has " in outcome.reason

    drive(scenario())


def test_where_gpus_cannot_be_seen_the_cpu_is_taken_if_it_is_written(
    drive: Drive[None], pool: PoolConfig
) -> None:
    async def scenario() -> None:
        async with opened(lambda: NO_DRIVER, cpu_replicas=1) as resources:
            lease = await place(resources, pool, ReplicaPlan("chat-0", ("0", "cpu")))
            assert lease.device == "cpu"
            outcome = await resources.place(AUTO, pool)
            assert isinstance(outcome, NoRoom)
            assert "no NVIDIA driver is installed" in outcome.reason

    drive(scenario())


# -- turns and measurements --------------------------------------------------------------------


def test_a_load_is_measured_and_then_the_next_one_begins(
    drive: Drive[None], pool: PoolConfig
) -> None:
    cards, reckoner = Cards(), RememberingReckoner()

    async def scenario() -> None:
        async with opened(cards.read, reckoner=reckoner) as resources:
            first = await place(resources, pool)
            second = asyncio.create_task(resources.place(AUTO, pool))
            await has_place(resources, 2)
            assert not second.done()
            cards.used_gib[0] = 2.5
            await resources.prove_memory(first, pool)
            assert reckoner.measured == [(first.footprint, 5 * GIB // 2)]
            third = await place_of(second)
            assert third.holding.baseline_bytes == 5 * GIB // 2
            resources.give_back(third)
            resources.give_back(first)

    drive(scenario())


def test_a_rise_that_others_had_a_part_in_is_not_learned(
    drive: Drive[None], pool: PoolConfig
) -> None:
    cards, reckoner = Cards(), RememberingReckoner()

    async def scenario() -> None:
        async with opened(cards.read, reckoner=reckoner) as resources:
            lease = await place(resources, pool)
            cards.used_gib[0] = 7
            await resources.prove_memory(lease, pool)
            assert reckoner.measured == []
            resources.note_process(lease, 77)
            cards.told[0] = {77: 2.0}
            await resources.prove_memory(lease, pool)
            assert reckoner.measured == [(lease.footprint, 2 * GIB)]

    drive(scenario())


def test_a_load_that_took_nothing_there_is_on_the_cpu(drive: Drive[None], pool: PoolConfig) -> None:
    cards = Cards()

    async def scenario() -> None:
        async with opened(cards.read) as resources:
            lease = await place(resources, pool)
            with pytest.raises(EngineError) as caught:
                await resources.prove_memory(lease, pool)
            expected = "loaded on the CPU instead of GPU-0: its memory rose by 0.0 GiB of 2.9 GiB"
            assert str(caught.value) == expected
            # Where the driver tells, a neighbour's rise is not taken for it.
            resources.note_process(lease, 77)
            cards.used_gib[0], cards.told[0] = 5, {77: 0.0}
            with pytest.raises(EngineError, match=r"rose by 0\.0 GiB"):
                await resources.prove_memory(lease, pool)

    drive(scenario())


def test_a_load_whose_card_cannot_be_seen_is_waited_for_and_then_has_failed(
    drive: Drive[None], tmp_path: Path
) -> None:
    cards = Cards()
    pool = make_pool(model=write_model(tmp_path), devices=("auto",), load_stall_s=0.1)

    async def scenario() -> None:
        async with opened(cards.read, interval_s=0.01) as resources:
            lease = await place(resources, pool)
            cards.lost.add(0)
            with pytest.raises(EngineError, match="cannot be seen: has fallen off the bus"):
                await resources.prove_memory(lease, pool)
            proving = asyncio.create_task(resources.prove_memory(lease, make_pool()))
            cards.used_gib[0] = 2
            cards.lost.clear()
            await proving

    drive(scenario())


def test_a_place_that_is_gone_when_the_turn_comes_is_decided_afresh(
    drive: Drive[None], pool: PoolConfig
) -> None:
    cards = Cards(2)

    async def scenario() -> None:
        async with opened(cards.read) as resources:
            cards.used_gib = [0, 4]
            first = await place(resources, pool)
            assert first.device == "GPU-0"
            second = asyncio.create_task(resources.place(AUTO, pool))
            await has_place(resources, 2)
            cards.used_gib = [6, 4]  # a neighbour has come
            await resources.prove_memory(first, pool)
            assert (await place_of(second)).device == "GPU-1"

    drive(scenario())


@pytest.mark.parametrize("is_lost", [False, True])
def test_who_waits_for_a_turn_is_not_held_up_by_a_card_that_vanishes(
    drive: Drive[None], pool: PoolConfig, is_lost: bool
) -> None:
    cards = Cards(2)

    async def scenario() -> None:
        async with opened(cards.read) as resources:
            cards.used_gib = [0, 4]
            first = await place(resources, pool)
            resources.note_process(first, 77)
            second = asyncio.create_task(resources.place(AUTO, pool))
            await has_place(resources, 2)
            if is_lost:
                cards.lost.add(0)
            cards.used_gib[0] = 6  # of one that is gone, and never given back
            resources.give_back(first)
            if is_lost:
                assert (await place_of(second)).device == "GPU-1"
            else:
                await spin()
                assert not second.done()

    drive(scenario())


# -- what is given back ------------------------------------------------------------------------


def test_a_reservation_lives_until_its_memory_is_back_and_the_next_load_waits_for_it(
    drive: Drive[None], pool: PoolConfig
) -> None:
    cards = Cards()

    async def scenario() -> None:
        async with opened(cards.read) as resources:
            lease = await place(resources, pool)
            resources.note_process(lease, 77)
            cards.used_gib[0] = 3
            await resources.prove_memory(lease, pool)
            resources.give_back(lease)
            waiting = asyncio.create_task(resources.place(AUTO, pool))
            await spin(100)
            assert not resources.is_untouched
            assert not waiting.done()
            cards.used_gib[0] = 0
            second = await place_of(waiting)
            assert second.holding.baseline_bytes == 0
            resources.give_back(second)
            assert resources.is_untouched

    drive(scenario())


def test_what_exits_as_a_turn_comes_is_not_in_the_baseline_of_the_load(
    drive: Drive[None], tmp_path: Path
) -> None:
    cards, is_held, let_go = Cards(), threading.Event(), threading.Event()
    let_go.set()
    pool = make_pool(model=write_model(tmp_path), vram_mib=2000, devices=("auto",))

    def read() -> Reading:
        reading = cards.read()
        if not let_go.is_set():
            is_held.set()
            assert let_go.wait(30)
        return reading

    async def scenario() -> None:
        async with opened(read) as resources:
            ready = await place(resources, pool)
            resources.note_process(ready, 77)
            cards.used_gib[0] = 2
            await resources.prove_memory(ready, pool)
            loading = await place(resources, pool)
            waiting = asyncio.create_task(resources.place(AUTO, pool))
            await has_place(resources, 3)
            let_go.clear()
            resources.give_back(loading)
            await until(is_held.is_set)
            resources.give_back(ready)
            cards.used_gib[0] = 0
            let_go.set()
            third = await place_of(waiting)
            assert third.holding.baseline_bytes == 0
            resources.give_back(third)

    try:
        drive(scenario())
    finally:
        let_go.set()


def test_what_is_not_given_back_is_shown_with_its_device_and_the_daemon_goes_on(
    drive: Drive[None], pool: PoolConfig
) -> None:
    cards = Cards()

    async def scenario() -> None:
        async with opened(cards.read, interval_s=0.01, return_timeout_s=0.05) as resources:
            lease = await place(resources, pool)
            resources.note_process(lease, 77)
            cards.used_gib[0] = 3
            await resources.prove_memory(lease, pool)
            resources.give_back(lease)
            await until(lambda: resources.is_untouched)
            (device,) = resources.devices()
            assert device.reason is not None
            assert device.reason.startswith("did not give back 2.7 GiB of chat-0")
            assert isinstance(await resources.place(AUTO, pool), Lease)
            cards.used_gib[0] = 0
            await until(lambda: resources.devices()[0].reason is None)

    drive(scenario())


def test_one_that_never_ran_has_nothing_to_give_back(drive: Drive[None], pool: PoolConfig) -> None:
    cards = Cards()

    async def scenario() -> None:
        async with opened(cards.read) as resources:
            lease = await place(resources, pool)
            cards.used_gib[0] = 5
            resources.give_back(lease)
            assert resources.is_untouched

    drive(scenario())


# -- waiting for room --------------------------------------------------------------------------


def test_who_found_no_room_is_woken_by_a_neighbour_that_leaves(
    drive: Drive[None], pool: PoolConfig
) -> None:
    cards, woken = Cards(), list[str]()

    async def scenario() -> None:
        async with opened(cards.read, interval_s=0.01) as resources:
            cards.used_gib[0] = 7
            no_room = await resources.place(AUTO, pool)
            assert isinstance(no_room, NoRoom)
            resources.wait_for_room(no_room, lambda: woken.append("a"))
            leave = resources.wait_for_room(no_room, lambda: woken.append("b"))
            await spin()
            assert woken == []
            leave()
            cards.used_gib[0] = 1
            await until(lambda: woken != [])
            assert woken == ["a"]

    drive(scenario())


def test_who_found_no_room_is_woken_by_a_replica_that_gives_back(
    drive: Drive[None], pool: PoolConfig
) -> None:
    woken = list[str]()

    async def scenario() -> None:
        async with opened(Cards().read) as resources:
            leases = [await place(resources, pool)]
            second = asyncio.create_task(resources.place(AUTO, pool))
            await has_place(resources, 2)
            no_room = await resources.place(AUTO, pool)
            assert isinstance(no_room, NoRoom)
            resources.wait_for_room(no_room, lambda: woken.append("a"))
            resources.give_back(leases[0])
            assert woken == ["a"]
            resources.give_back(await place_of(second))

    drive(scenario())


def test_a_survey_sees_what_is_gone_as_given_back_on_each_card(
    drive: Drive[None], pool: PoolConfig
) -> None:
    cards = Cards(2)

    async def scenario() -> None:
        async with opened(cards.read) as resources:
            leases = [await place(resources, pool) for _ in range(2)]
            assert {lease.device for lease in leases} == {"GPU-0", "GPU-1"}
            cards.used_gib = [3, 3]
            for n, lease in enumerate(leases):
                resources.note_process(lease, 70 + n)
                await resources.prove_memory(lease, pool)
                resources.give_back(lease)
            surveying = asyncio.create_task(resources.survey(pool))
            for n in range(2):
                await spin()
                assert not surveying.done()
                cards.used_gib[n] = 0
                await has_place(resources, 1 - n)
            machine = await surveying
            assert machine.reservations == ()
            assert [gpu.free_bytes for gpu in machine.snapshot.gpus] == [8 * GIB, 8 * GIB]

    drive(scenario())


def test_a_claim_takes_no_turn_from_the_pool_that_made_it(
    drive: Drive[None], pool: PoolConfig
) -> None:
    pool = replace(pool, vram_mib=2000)
    stranger = replace(pool, id="stranger")

    async def scenario() -> None:
        async with opened(Cards().read) as resources:
            first = await place(resources, pool)
            second = asyncio.create_task(resources.place(AUTO, pool))
            await has_place(resources, 2)
            behind = asyncio.create_task(resources.place(AUTO, stranger))
            await has_place(resources, 3)
            resources.claim(pool.id, {"GPU-0": 7 * GIB})
            resources.give_back(first)
            await asyncio.wait([second, behind], return_when=asyncio.FIRST_COMPLETED)
            lease = await place_of(second)
            assert not behind.done()
            resources.give_back(lease)
            assert isinstance(await behind, NoRoom), "the claim leaves it none"
            resources.unclaim(pool.id)

    drive(scenario())


def test_what_is_claimed_is_for_the_pool_that_claims_it(
    drive: Drive[None], pool: PoolConfig
) -> None:
    """The card has room for two: one claim leaves a stranger one of them."""

    async def scenario() -> None:
        async with opened(Cards().read) as resources:
            other = replace(pool, id="other")
            card = (await resources.survey(pool)).snapshot.gpus[0].uuid
            resources.claim(pool.id, {card: 2 * 3000 * MIB})
            no_room = await resources.place(ReplicaPlan("other-0", ("auto",)), other)
            assert isinstance(no_room, NoRoom) and "the reload of chat" in no_room.reason
            woken: list[None] = []
            resources.wait_for_room(no_room, lambda: woken.append(None))
            lease = await place(resources, pool)
            resources.give_back(lease)
            assert not woken and not resources.is_untouched
            resources.unclaim(pool.id)
            assert len(woken) == 1 and resources.is_untouched

    drive(scenario())


# -- a machine that refuses --------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "problem"), [("none", "No such file"), ("folder", "Is a dir")])
def test_a_model_that_cannot_be_read_is_the_machines_fault(
    drive: Drive[None], tmp_path: Path, kind: str, problem: str
) -> None:
    pool = make_pool(model=tmp_path if kind == "folder" else tmp_path / "no.gguf")

    async def scenario() -> None:
        async with opened(lambda: NO_DRIVER) as resources:
            with pytest.raises(HostError, match=f"^model {pool.model}: {problem}"):
                await resources.place(CPU, pool)

    drive(scenario())


def test_a_model_on_a_disk_that_does_not_answer_is_given_up(
    drive: Drive[None], tmp_path: Path
) -> None:
    """A FIFO that nobody writes blocks as a dead network disk does."""
    fifo, model = tmp_path / "fifo", write_model(tmp_path)
    os.mkfifo(fifo)

    async def scenario() -> None:
        async with opened(lambda: NO_DRIVER, reckoner=RememberingReckoner(0.05)) as resources:
            with pytest.raises(HostError, match=r"its disk did not answer for 0\.05 s"):
                await resources.place(CPU, make_pool(model=fifo))
            # Another model is not held up by it.
            assert isinstance(await resources.place(CPU, make_pool(model=model)), Lease)
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))

    drive(scenario())


def test_a_driver_that_does_not_answer_is_a_reason_and_holds_up_no_cpu(
    drive: Drive[None], pool: PoolConfig
) -> None:
    let_go, cards = threading.Event(), Cards()

    def read() -> Reading:
        assert let_go.wait(30)
        return cards.read()

    async def scenario() -> None:
        async with opened(read, cpu_replicas=1, gpu_timeout_s=0.02) as resources:
            for _ in range(3):
                outcome = await resources.place(AUTO, pool)
                assert isinstance(outcome, NoRoom)
                assert "the NVIDIA driver did not answer for 0.02 s" in outcome.reason
            assert isinstance(await resources.place(CPU, pool), Lease)
            let_go.set()
            while not isinstance(await resources.place(AUTO, pool), Lease):
                pass

    try:
        drive(scenario())
    finally:
        let_go.set()


# -- whatever happens --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_after_any_history_nothing_is_held_and_no_card_was_promised_twice(
    drive: Drive[None], pool: PoolConfig, seed: int
) -> None:
    chance, cards = random.Random(seed), Cards(2)
    # 3000 MiB each: two fit on a card of 8 GiB.
    on: dict[str, int] = {"GPU-0": 0, "GPU-1": 0}

    async def live(resources: Resources, name: str) -> None:
        for _ in range(4):
            outcome = await resources.place(ReplicaPlan(name, ("auto",)), pool)
            if isinstance(outcome, NoRoom):
                await spin(chance.randrange(5))
                continue
            number = int(outcome.device[-1])
            on[outcome.device] += 1
            assert on[outcome.device] <= 2
            try:
                resources.note_process(outcome, 1)
                await spin(chance.randrange(5))
                cards.used_gib[number] += 3000 / 1024
                if chance.random() < 0.8:
                    await resources.prove_memory(outcome, pool)
                await spin(chance.randrange(5))
            finally:
                on[outcome.device] -= 1
                cards.used_gib[number] = 3000 / 1024 * on[outcome.device]
                resources.give_back(outcome)

    async def scenario() -> None:
        async with opened(cards.read, interval_s=0.001, return_timeout_s=0.3) as resources:
            lives = [asyncio.create_task(live(resources, f"r-{n}")) for n in range(6)]
            for _ in range(3):
                await asyncio.sleep(0.005)
                chance.choice(lives).cancel()
                cards.lost = set() if cards.lost else {chance.randrange(2)}
            cards.lost = set()
            done, _ = await asyncio.wait(lives)
            for task in done:
                if not task.cancelled() and (error := task.exception()) is not None:
                    assert isinstance(error, EngineError), error
            cards.used_gib = [0, 0]
            await until(lambda: resources.is_untouched)
            for _ in range(2):
                await place(resources, pool)

    drive(scenario())


# -- what a replica needs ----------------------------------------------------------------------


def test_a_replica_has_the_footprint_of_the_device_that_it_got(
    drive: Drive[None], tmp_path: Path
) -> None:
    """Where both would do, a GPU is tried first."""
    pool = make_pool(model=write_model(tmp_path), devices=("0", "cpu"))
    plan = ReplicaPlan("chat-0", ("0", "cpu"))

    async def scenario() -> None:
        places: list[tuple[ReadGpus, str, str]] = [
            (Cards().read, "GPU-0", "CUDA context"),
            (lambda: NO_DRIVER, "cpu", "process"),
        ]
        for read, device, part in places:
            async with opened(read) as resources:
                lease = await place(resources, pool, plan)
                assert lease.device == device
                assert part in [item.what for item in lease.footprint.items]
                assert lease.footprint.key is not None
                assert lease.footprint.key.device_kind == ("cpu" if device == "cpu" else "gpu")
                resources.give_back(lease)

    drive(scenario())


def test_a_measured_footprint_decides_from_then_on(drive: Drive[None], tmp_path: Path) -> None:
    pool = make_pool(model=write_model(tmp_path), devices=("auto",))
    cards = Cards()

    async def scenario() -> None:
        reckoner = Reckoner({"llamacpp": LlamaCpp()}, Learned(None))
        async with opened(cards.read, reckoner=reckoner) as resources:
            first = await place(resources, pool)
            assert first.footprint.source == "reckoned"
            cards.used_gib[0] = 0.625
            await resources.prove_memory(first, pool)
            second = await place(resources, pool)
            assert second.footprint.source == "measured"
            assert second.holding.size_bytes == second.footprint.need_bytes == 640 * MIB * 21 // 20
            for lease in (second, first):
                resources.give_back(lease)
            assert resources.is_untouched

    drive(scenario())


def test_a_file_that_is_no_model_is_told_with_the_mend(drive: Drive[None], tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    model.write_bytes(bytes(1000))

    async def scenario() -> None:
        async with opened(lambda: NO_DRIVER) as resources:
            with pytest.raises(HostError, match=f"^model {model} is not a GGUF file"):
                await resources.place(CPU, make_pool(model=model))

    drive(scenario())

"""Turns to load: one owner, the order of asking, and no way to lose one."""

from __future__ import annotations

import asyncio
import random

import pytest

from orchd.runner.ledger import Holding
from orchd.runner.returns import Returns
from orchd.runner.snapshot import Snapshot
from orchd.runner.turns import Turns
from tests.conftest import Drive
from tests.runner.gpus import GIB, gpu, seen


class House:
    """Turns over cards whose memory comes back when ``used_gib`` says so."""

    def __init__(self) -> None:
        self.used_gib = 0.0
        self.returns = Returns(self.fresh, lambda holding: None, resample_s=0)
        self.turns = Turns(self.returns)

    async def fresh(self) -> Snapshot:
        await asyncio.sleep(0)
        return seen(gpu(0, 24, 24 - self.used_gib), gpu(1, 24))


def holding(name: str, device: str = "GPU-0") -> Holding:
    return Holding("chat", name, device, GIB, GIB)


def test_one_loads_at_a_time_in_the_order_of_asking(drive: Drive[None]) -> None:
    async def scenario() -> None:
        turns, order = House().turns, list[str]()

        async def load(name: str) -> bool:
            mine = holding(name)
            has_waited = await turns.take(mine)
            order.append(f"{name} begins")
            for _ in range(5):
                await asyncio.sleep(0)
            order.append(f"{name} ends")
            turns.give_back(mine)
            return has_waited

        waited = await asyncio.gather(*(load(name) for name in "abc"))
        assert order == [f"{name} {what}" for name in "abc" for what in ("begins", "ends")]
        assert waited == [False, True, True]

    drive(scenario())


def test_another_card_has_turns_of_its_own(drive: Drive[None]) -> None:
    async def scenario() -> None:
        turns = House().turns
        await turns.take(holding("a"))
        assert await turns.take(holding("b", "GPU-1")) is False

    drive(scenario())


def test_a_turn_waits_for_memory_that_is_not_back(drive: Drive[None]) -> None:
    async def scenario() -> None:
        house = House()
        house.used_gib = 8
        house.returns.begin(holding("gone"), GIB)
        taking = asyncio.create_task(house.turns.take(holding("a")))
        for _ in range(10):
            await asyncio.sleep(0)
        assert not taking.done()
        house.used_gib = 0
        assert await taking is True

    drive(scenario())


def test_giving_back_what_one_does_not_have_takes_nothing_from_others(drive: Drive[None]) -> None:
    async def scenario() -> None:
        turns, mine, other = House().turns, holding("a"), holding("b")
        await turns.take(mine)
        turns.give_back(other)
        taking = asyncio.create_task(turns.take(other))
        await asyncio.sleep(0)
        assert not taking.done()
        turns.give_back(mine)
        turns.give_back(mine)
        assert await taking is True

    drive(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_cancelled_at_any_moment_a_turn_is_never_lost(drive: Drive[None], seed: int) -> None:
    chance = random.Random(seed)

    async def scenario() -> None:
        house = House()
        if chance.random() < 0.5:
            house.used_gib = 8
            house.returns.begin(holding("gone"), GIB)

        async def load(name: str) -> None:
            mine = holding(name)
            await house.turns.take(mine)
            try:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
            finally:
                house.turns.give_back(mine)

        loads = [asyncio.create_task(load(str(n))) for n in range(6)]
        for _ in range(12):
            await asyncio.sleep(0)
            chance.choice(loads).cancel()
        house.used_gib = 0
        await asyncio.wait(loads)
        last = holding("last")
        await house.turns.take(last)
        assert last.is_loading

    drive(scenario())

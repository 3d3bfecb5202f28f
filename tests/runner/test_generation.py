"""The replicas of one model: wanted together, and let go together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Endpoint
from orchd.runner.generation import Failure, Generation
from orchd.runner.history import History
from orchd.runner.lifecycle import State
from orchd.runner.placement import ReplicaPlan
from orchd.runner.replica import Replica
from orchd.runner.resources import NoRoom
from orchd.runner.restart import RestartPolicy
from orchd.runner.slot_gate import SlotGate
from tests.conftest import Drive
from tests.runner.pools import make_pool
from tests.runner.stage import IdleGate

POOL = make_pool()


class FakeReplica:
    """Is in the state that the test says."""

    def __init__(self, plan: ReplicaPlan, gate: SlotGate, on_change: Callable[[], None]) -> None:
        self.plan = plan
        self.gate = gate
        self.state = State.PLACING
        self.history = History(RestartPolicy())
        self.no_room: NoRoom | None = None
        self._on_change = on_change

    def want(self) -> None:
        pass

    async def retire(self) -> None:
        self.reach(State.DOWN)

    def reach(self, state: State) -> None:
        self.state = state
        self._on_change()

    def open(self) -> None:
        self.gate.open_slots(POOL, Endpoint(self.plan.replica_id, "127.0.0.1", 1, "k"))


def make_generation(count: int, gate: IdleGate) -> tuple[Generation, list[FakeReplica]]:
    made: list[FakeReplica] = []

    def build(
        config: PoolConfig, plan: ReplicaPlan, gate: SlotGate, on_change: Callable[[], None]
    ) -> Replica:
        made.append(FakeReplica(plan, gate, on_change))
        return cast(Replica, made[-1])

    generation = Generation(POOL, build, gate, serves=True)
    generation.want(ReplicaPlan(f"chat-{n}", ("cpu",)) for n in range(count))
    return generation, made


def test_one_that_becomes_ready_just_when_all_are_retired_does_not_serve(
    drive: Drive[None],
) -> None:
    async def scenario() -> None:
        gate = IdleGate()
        generation, (first, second) = make_generation(2, gate)
        first.open()
        down = generation.retire()
        second.open()
        await down
        assert [endpoint.replica_id for endpoint in gate.opened] == ["chat-0"]

    drive(scenario())


def test_coming_up_ends_at_the_first_failure(drive: Drive[None]) -> None:
    async def scenario() -> None:
        generation, (first, second, third) = make_generation(3, IdleGate())
        up = asyncio.create_task(generation.come_up())
        await asyncio.sleep(0)
        first.reach(State.READY)
        second.reach(State.LOADING)
        third.history.fail("no port")
        third.reach(State.BACKOFF)
        assert await up == Failure("replica chat-2: no port", lacks_room=False, is_partial=True)

    drive(scenario())


def test_it_has_settled_once_none_is_at_a_try(drive: Drive[None]) -> None:
    async def scenario() -> None:
        generation, (first, second) = make_generation(2, IdleGate())
        settled = asyncio.create_task(generation.settle())
        await asyncio.sleep(0)
        first.history.fail("no port")
        first.reach(State.BACKOFF)
        for state in (State.LOADING, State.STOPPING, State.DOWN):
            second.reach(state)
            await asyncio.sleep(0)
            assert not settled.done()
        second.history.fail("crashed")
        second.reach(State.BACKOFF)
        assert await settled == Failure("replica chat-0: no port", False, False)

    drive(scenario())

"""The replicas of one pool that serve one model: wanted together, and let go together.

The first generation is the configured model's; each reload brings the next. Invariant: none of a
generation's replicas serves before all of it may, see ``HeldGate``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from orchd.config.model import PoolConfig
from orchd.runner.held_gate import HeldGate
from orchd.runner.lifecycle import State
from orchd.runner.placement import ReplicaPlan
from orchd.runner.replica import Replica
from orchd.runner.slot_gate import SlotGate

BuildReplica = Callable[[PoolConfig, ReplicaPlan, SlotGate, Callable[[], None]], Replica]
"""A replica that nobody wants yet; the last argument is called whenever it has changed."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a generation has not come up."""

    reason: str
    lacks_room: bool
    """There was no device for it."""
    is_partial: bool
    """Others of it are ready."""


class Generation:
    """One pool's replicas of one model."""

    def __init__(
        self, config: PoolConfig, build: BuildReplica, gate: SlotGate, *, serves: bool
    ) -> None:
        self.config = config
        self.replicas: list[Replica] = []
        self._build = build
        self._gate = HeldGate(gate, is_open=serves)
        self._changed = asyncio.Event()

    def want(self, plans: Iterable[ReplicaPlan]) -> None:
        """Bring these up, beside those that it has."""
        for plan in plans:
            replica = self._build(self.config, plan, self._gate, self._changed.set)
            self.replicas.append(replica)
            replica.want()

    def want_again(self) -> None:
        """Bring up and serve with all that it had, after ``retire``."""
        self.serve()
        for replica in self.replicas:
            replica.want()

    async def come_up(self) -> Failure | None:
        """Wait until all of it has proven itself, or one try has failed."""
        await self._until(lambda states: State.BACKOFF in states or states <= {State.READY})
        return self._find_failure()

    async def settle(self) -> Failure | None:
        """Wait until each of it has proven itself or failed at a try."""
        await self._until(lambda states: states <= {State.READY, State.BACKOFF})
        return self._find_failure()

    async def _until(self, is_so: Callable[[set[State]], bool]) -> None:
        while not is_so({replica.state for replica in self.replicas}):
            self._changed.clear()
            await self._changed.wait()

    def _find_failure(self) -> Failure | None:
        # One that was wanted and has failed waits for its next try.
        failed = next((r for r in self.replicas if r.state is State.BACKOFF), None)
        if failed is None:
            return None
        reason = f"replica {failed.plan.replica_id}: {failed.history.failure}"
        is_partial = any(replica.state is State.READY for replica in self.replicas)
        return Failure(reason, failed.no_room is not None, is_partial)

    def serve(self) -> None:
        """Open the slots of all that is ready, and of what becomes so."""
        self._gate.open()

    def retire(self) -> Awaitable[list[None]]:
        """Give it no more tasks from now on; the answer is done once all of it has finished those
        that it has and is down."""
        down = asyncio.gather(*[replica.retire() for replica in self.replicas])
        # What was loading may become ready before it hears that it is not wanted.
        self._gate.shut()
        return down

    async def unwant(self) -> None:
        """Take it down."""
        await asyncio.gather(*(replica.unwant() for replica in self.replicas))

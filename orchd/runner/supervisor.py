"""Keeps every pool's wanted replicas alive, and tells how they stand."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from orchd.config.model import Config
from orchd.engines.adapter import Adapter
from orchd.errors import HostError
from orchd.runner.learned import Learned
from orchd.runner.placement import CPU, Gpu, plan_replicas
from orchd.runner.replica import Replica, SlotGate, Timing
from orchd.runner.resources import Resources
from orchd.runner.status import ReplicaStatus

log = logging.getLogger(__name__)


class Supervisor:
    """All replicas of all pools."""

    def __init__(
        self,
        config: Config,
        adapters: Mapping[str, Adapter],
        gate: SlotGate,
        sample_gpus: Callable[[], tuple[Gpu, ...]],
        timing: Timing | None = None,
        learned: Learned | None = None,
    ) -> None:
        self._pools = config.pools
        self._adapters = adapters
        self._gate = gate
        self._timing = timing or Timing()
        on_cpu = (pool.replicas for pool in config.pools if CPU in pool.devices)
        cpu_replicas = sum(1 if count == "per-device" else count for count in on_cpu)
        self._resources = Resources(sample_gpus, cpu_replicas, adapters=adapters, learned=learned)
        self._replicas: dict[str, list[Replica]] = {pool.id: [] for pool in config.pools}

    async def start(self) -> None:
        """Want every replica of every pool; they come up, and up again, by themselves."""
        gpus = await self._gpus_to_plan_for()
        for pool in self._pools:
            for plan in plan_replicas(pool, gpus):
                adapter = self._adapters[pool.engine]
                replica = Replica(plan, pool, adapter, self._resources, self._gate, self._timing)
                self._replicas[pool.id].append(replica)
                replica.want()

    async def stop(self) -> None:
        """Take every replica down; no engine process is left when this returns."""
        await asyncio.gather(*(replica.unwant() for replica in self._all()))

    def hurry(self) -> None:
        """Do not wait any longer for engines that are being stopped."""
        for replica in self._all():
            replica.hurry()

    def report_stuck(self, pool_id: str, replica_id: str, reason: str) -> None:
        """A replica whose slots are open does not do as it should: start it afresh."""
        for replica in self._replicas[pool_id]:
            if replica.plan.replica_id == replica_id:
                replica.report_stuck(reason)

    def statuses(self, pool_id: str) -> tuple[ReplicaStatus, ...]:
        """How each replica of the pool stands."""
        return tuple(replica.status() for replica in self._replicas[pool_id])

    def explain(self, pool_id: str) -> str:
        """Why the pool cannot serve, for the user."""
        statuses = self.statuses(pool_id)
        reasons = [f"replica {s.replica_id}: {s.reason}" for s in statuses if s.reason is not None]
        return "; ".join(reasons) or "its replicas are being planned"

    @property
    def holds_nothing(self) -> bool:
        """True once every reservation and every port is given back."""
        return self._resources.is_untouched

    def _all(self) -> list[Replica]:
        return [replica for pool in self._replicas.values() for replica in pool]

    async def _gpus_to_plan_for(self) -> tuple[Gpu, ...]:
        is_needed = any(
            pool.replicas == "per-device" and pool.devices != (CPU,) for pool in self._pools
        )
        if not is_needed:
            return ()
        try:
            return await self._resources.gpus()
        except HostError as error:
            log.warning("could not see the GPUs to plan replicas for: %s", error)
            return ()

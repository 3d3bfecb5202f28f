"""Keeps every pool's wanted replicas alive, and tells how they and the devices stand.

A pool with one replica per device follows the devices: one that is there for the first time gets
its replica at once; one that is gone keeps its own, which waits for it and says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from orchd.config.model import Config, PoolConfig
from orchd.engines.adapter import Adapter
from orchd.reload_outcome import ReloadBusy, ReloadFailed, ReloadOutcome
from orchd.runner.allowed import CPU
from orchd.runner.attempt import Attempt
from orchd.runner.devices import INTERVAL_S, DeviceMonitor
from orchd.runner.guard import Guard
from orchd.runner.incident import IncidentLog
from orchd.runner.placement import ReplicaPlan
from orchd.runner.pool import Pool
from orchd.runner.reckoner import Reckoner
from orchd.runner.reloading import Reload
from orchd.runner.replica import Replica
from orchd.runner.resources import Resources
from orchd.runner.restart import Timing
from orchd.runner.slot_gate import PoolGate, SlotGate
from orchd.runner.snapshot import NoReading, Reading, Snapshot
from orchd.runner.status import DeviceStatus, PoolStatus, ReplicaStatus, decide_retry_s

log = logging.getLogger(__name__)


class Supervisor:
    """All replicas of all pools, and the devices that they are on."""

    def __init__(
        self,
        config: Config,
        adapters: Mapping[str, Adapter],
        gate: PoolGate,
        read_gpus: Callable[[], Reading | NoReading],
        reckoner: Reckoner,
        timing: Timing | None = None,
        sample_interval_s: float = INTERVAL_S,
        guard: Guard | None = None,
    ) -> None:
        self._adapters = adapters
        self._gate = gate
        self._timing = timing or Timing()
        self._guard = guard or Guard(None)
        on_cpu = (pool.replicas for pool in config.pools if CPU in pool.devices)
        cpu_replicas = sum(1 if count == "per-device" else count for count in on_cpu)
        self._monitor = DeviceMonitor(read_gpus, sample_interval_s)
        # Before the resources, which wake those that wait for room: a device that is new gets the
        # replica that is its own.
        self._monitor.watch(self._follow)
        self._resources = Resources(self._monitor, reckoner, cpu_replicas, guard=self._guard)
        self._pools = {pool.id: self._build_pool(pool) for pool in config.pools}
        self._reloads: dict[str, Reload] = {}
        """Those under way, by pool id."""
        self._is_stopping = False

    async def start(self) -> None:
        """Want every replica of every pool; they come up, and up again, by themselves."""
        self._monitor.start()
        for pool in self._pools.values():
            # Until the devices are seen, a pool per device has none but that of the CPU.
            pool.start(self._monitor.snapshot)

    async def stop_reloads(self) -> None:
        """Begin no reload any more, and end those under way; their answers are given."""
        self._is_stopping = True
        await asyncio.gather(*(reload.stop() for reload in self._reloads.values()))

    async def stop(self) -> None:
        """Take every replica down; no engine process is left when this returns."""
        await self.stop_reloads()
        await asyncio.gather(*(replica.unwant() for replica in self._all()))
        await self._resources.stop()
        await self._monitor.stop()

    def hurry(self) -> None:
        """Do not wait any longer for engines that are being stopped."""
        for replica in self._all():
            replica.hurry()

    def reload(self, pool_id: str, model_ref: str | None) -> asyncio.Future[ReloadOutcome]:
        """Have the pool serve that model, or, where it is None, its own one afresh.

        The answer comes when that is over, whoever waits for it; it is never cancelled.
        """
        if self._is_stopping:
            return self._answer(ReloadFailed("the daemon is stopping"))
        if (under_way := self._reloads.get(pool_id)) is not None:
            status = under_way.status()
            words = f"a reload to {status.new_model_ref} is under way for {status.so_far_s:.0f} s"
            return self._answer(ReloadBusy(f"pool {pool_id}: {words}: it {status.step}"))
        pool = self._pools[pool_id]
        config = pool.models.configure(model_ref)
        reload = Reload(pool, config, self._resources, self._gate)
        self._reloads[pool_id] = reload
        reload.start(on_end=lambda: self._reloads.pop(pool_id))
        return reload.answer

    def report_stuck(self, pool_id: str, replica_id: str, reason: str) -> None:
        """A replica whose slots are open does not do as it should: start it afresh."""
        for replica in self._pools[pool_id].replicas():
            if replica.plan.replica_id == replica_id:
                replica.report_stuck(reason)

    def spare_vram_bytes(self, replica_id: str) -> int:
        """Free VRAM of the replica's GPU, as last seen; 0 for one on the CPU."""
        devices = (r.status().device for r in self._all() if r.plan.replica_id == replica_id)
        device = next(devices, None)
        gpu = None if device is None else self._monitor.snapshot.find(device)
        return 0 if gpu is None else gpu.free_bytes

    def config(self, pool_id: str) -> PoolConfig:
        """How the pool is configured, with the model that is active."""
        return self._pools[pool_id].models.active

    def pools(self) -> list[PoolStatus]:
        """How every pool stands, in the configuration's order."""
        return [self._status(pool_id) for pool_id in self._pools]

    def statuses(self, pool_id: str) -> Sequence[ReplicaStatus]:
        """How each replica of the pool stands; what it lacks stands for one that has no device."""
        return self._status(pool_id).replicas

    def explain(self, pool_id: str) -> str:
        """Why the pool cannot serve, for the user."""
        status = self._status(pool_id)
        reasons = [f"replica {s.replica_id}: {s.reason}" for s in status.replicas if s.reason]
        if (reload := status.reload) is not None:
            reasons.insert(0, f"a reload to {reload.new_model_ref} {reload.step}")
        return "; ".join(reasons) or "its replicas are being planned"

    def retry_s(self, pool_id: str) -> float | None:
        """When the next replica of the pool is tried again; None where that is not waited for."""
        return decide_retry_s(self.statuses(pool_id))

    @property
    def snapshot(self) -> Snapshot:
        """The GPUs as they were seen last; to read it waits for nothing."""
        return self._monitor.snapshot

    def devices(self) -> tuple[DeviceStatus, ...]:
        """Every GPU as it was seen last."""
        return self._resources.devices()

    @property
    def holds_nothing(self) -> bool:
        """True once every reservation and every port is given back."""
        return self._resources.is_untouched

    def _all(self) -> list[Replica]:
        return [replica for pool in self._pools.values() for replica in pool.replicas()]

    def _status(self, pool_id: str) -> PoolStatus:
        reload = self._reloads.get(pool_id)
        under_way = None if reload is None else reload.status()
        return self._pools[pool_id].status(under_way, self._monitor.snapshot)

    def _answer(self, outcome: ReloadOutcome) -> asyncio.Future[ReloadOutcome]:
        answer: asyncio.Future[ReloadOutcome] = asyncio.get_running_loop().create_future()
        answer.set_result(outcome)
        return answer

    def _follow(self, snapshot: Snapshot) -> None:
        if self._is_stopping:
            return
        for pool_id, pool in self._pools.items():
            if pool_id not in self._reloads:
                pool.follow(snapshot)
        for replica in self._all():
            device = replica.status().device
            gone = snapshot.find_quarantined(device) if device is not None else None
            if gone is not None and gone.is_lost:
                replica.lose_device(gone.reason)

    def _build_pool(self, config: PoolConfig) -> Pool:
        incidents = IncidentLog()

        def build(
            config: PoolConfig, plan: ReplicaPlan, gate: SlotGate, on_change: Callable[[], None]
        ) -> Replica:
            adapter = self._adapters[config.engine]
            start = partial(Attempt, config, adapter, self._resources, self._guard)
            return Replica(
                *(plan, config, start, self._resources, gate, self._timing, incidents, on_change)
            )

        return Pool(config, build, self._gate, incidents)

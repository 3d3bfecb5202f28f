"""Keeps every pool's wanted replicas alive, and tells how they and the devices stand.

A pool with one replica per device follows the devices: one that is there for the first time gets
its replica at once; one that is gone keeps its own, which waits for it and says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from orchd.config.model import Config, PoolConfig
from orchd.engines.adapter import Adapter
from orchd.runner.allowed import CPU, allow
from orchd.runner.attempt import Attempt
from orchd.runner.devices import INTERVAL_S, DeviceMonitor
from orchd.runner.guard import Guard
from orchd.runner.incident import Incident, IncidentLog
from orchd.runner.lifecycle import State
from orchd.runner.placement import ReplicaPlan, plan_replicas
from orchd.runner.reckoner import Reckoner
from orchd.runner.replica import Replica
from orchd.runner.resources import Resources
from orchd.runner.restart import Timing
from orchd.runner.slot_gate import SlotGate
from orchd.runner.snapshot import NoReading, Reading, Snapshot
from orchd.runner.status import DeviceStatus, ReplicaStatus, decide_retry_s

log = logging.getLogger(__name__)


class Supervisor:
    """All replicas of all pools, and the devices that they are on."""

    def __init__(
        self,
        config: Config,
        adapters: Mapping[str, Adapter],
        gate: SlotGate,
        read_gpus: Callable[[], Reading | NoReading],
        reckoner: Reckoner,
        timing: Timing | None = None,
        sample_interval_s: float = INTERVAL_S,
        guard: Guard | None = None,
    ) -> None:
        self._pools = config.pools
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
        self._replicas: dict[str, list[Replica]] = {pool.id: [] for pool in config.pools}
        self._incidents = {pool.id: IncidentLog() for pool in config.pools}
        self._is_stopping = False

    async def start(self) -> None:
        """Want every replica of every pool; they come up, and up again, by themselves."""
        self._monitor.start()
        for pool in self._pools:
            # Until the devices are seen, a pool per device has none but that of the CPU.
            self._add_missing(pool, self._monitor.snapshot)

    async def stop(self) -> None:
        """Take every replica down; no engine process is left when this returns."""
        self._is_stopping = True
        await asyncio.gather(*(replica.unwant() for replica in self._all()))
        await self._resources.stop()
        await self._monitor.stop()

    def hurry(self) -> None:
        """Do not wait any longer for engines that are being stopped."""
        for replica in self._all():
            replica.hurry()

    def report_stuck(self, pool_id: str, replica_id: str, reason: str) -> None:
        """A replica whose slots are open does not do as it should: start it afresh."""
        for replica in self._replicas[pool_id]:
            if replica.plan.replica_id == replica_id:
                replica.report_stuck(reason)

    def spare_vram_bytes(self, replica_id: str) -> int:
        """Free VRAM of the replica's GPU, as last seen; 0 for one on the CPU."""
        devices = (r.status().device for r in self._all() if r.plan.replica_id == replica_id)
        device = next(devices, None)
        gpu = None if device is None else self._monitor.snapshot.find(device)
        return 0 if gpu is None else gpu.free_bytes

    def statuses(self, pool_id: str) -> tuple[ReplicaStatus, ...]:
        """How each replica of the pool stands; what it lacks stands for one that has no device."""
        statuses = tuple(replica.status() for replica in self._replicas[pool_id])
        return statuses or self._missing(pool_id)

    def incidents(self, pool_id: str) -> tuple[Incident, ...]:
        """The last deaths of engines of the pool, the newest last."""
        return self._incidents[pool_id].all()

    def explain(self, pool_id: str) -> str:
        """Why the pool cannot serve, for the user."""
        statuses = self.statuses(pool_id)
        reasons = [f"replica {s.replica_id}: {s.reason}" for s in statuses if s.reason is not None]
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
        return [replica for pool in self._replicas.values() for replica in pool]

    def _missing(self, pool_id: str) -> tuple[ReplicaStatus, ...]:
        pool = next(pool for pool in self._pools if pool.id == pool_id)
        if pool.replicas != "per-device" or not self._monitor.has_read:
            return ()
        complaints = allow(pool.devices, self.snapshot).complaints
        reason = self.snapshot.reason or "; ".join(complaints)
        return (ReplicaStatus(f"{pool_id}-0", None, State.BACKOFF, None, 0, reason, None, True),)

    def _follow(self, snapshot: Snapshot) -> None:
        if self._is_stopping:
            return
        for pool in self._pools:
            if pool.replicas == "per-device":
                self._add_missing(pool, snapshot)
        for replica in self._all():
            device = replica.status().device
            gone = snapshot.find_quarantined(device) if device is not None else None
            if gone is not None and gone.is_lost:
                replica.lose_device(gone.reason)

    def _add_missing(self, pool: PoolConfig, snapshot: Snapshot) -> None:
        """Want the replicas that the pool lacks on this machine."""
        replicas = self._replicas[pool.id]
        plans = plan_replicas(pool, snapshot)
        if pool.replicas == "per-device":
            have = {replica.plan.devices for replica in replicas}
            new = [plan.devices for plan in plans if plan.devices not in have]
            first = len(replicas)
            plans = tuple(
                ReplicaPlan(f"{pool.id}-{first + n}", devices) for n, devices in enumerate(new)
            )
        for plan in plans:
            adapter = self._adapters[pool.engine]
            start = partial(Attempt, pool, adapter, self._resources, self._guard)
            replica = Replica(
                *(plan, pool, start, self._resources, self._gate, self._timing),
                self._incidents[pool.id],
            )
            replicas.append(replica)
            replica.want()

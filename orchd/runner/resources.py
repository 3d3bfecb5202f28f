"""What replicas hold of the machine: reservations of memory, turns to load, and ports.

A place is decided, reserved, and then waited for: the turn to load on a GPU comes when the loads
before it are measured. If the room is gone by then, it is decided afresh. Whoever finds no room is
woken when there is more. Invariant: between reading what is reserved and reserving more there is
no await, so no two replicas are promised the same memory.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from orchd.config.model import PoolConfig
from orchd.errors import EngineError
from orchd.runner.allowed import CPU, allow
from orchd.runner.devices import DeviceMonitor
from orchd.runner.footprint import Footprint, format_gib
from orchd.runner.guard import Guard
from orchd.runner.host_memory import read_anonymous_bytes, read_host_memory
from orchd.runner.ledger import Holding, Ledger, is_its_own, note_exit, wanted_rise_bytes
from orchd.runner.placement import Machine, Needs, NoFit, ReplicaPlan, Reservation, decide_placement
from orchd.runner.ports import PortPool
from orchd.runner.reckoner import Reckoner
from orchd.runner.returns import RETURN_TIMEOUT_S, Returns
from orchd.runner.rise import see_rise
from orchd.runner.room import Waiter, WaitingRoom
from orchd.runner.snapshot import Snapshot, quarantine
from orchd.runner.status import DeviceStatus, describe_devices
from orchd.runner.turns import Turns

log = logging.getLogger(__name__)

OnReturned = Callable[[int | None], None]
"""Gets what is in use of the device then; None where that is not known."""


@dataclass(frozen=True, slots=True, eq=False)
class Lease:
    """What one replica holds until it is given back."""

    device: str
    footprint: Footprint
    port: int
    key: str = field(repr=False)
    is_cpu_shared: bool
    holding: Holding


@dataclass(frozen=True, slots=True)
class NoRoom:
    """No device has room now; whoever waits is woken when one has."""

    reason: str
    plan: ReplicaPlan
    needs: Needs


class Resources:
    """The machine's memory and ports, as far as this daemon gives them out."""

    def __init__(
        self,
        monitor: DeviceMonitor,
        reckoner: Reckoner,
        cpu_replicas: int,
        return_timeout_s: float = RETURN_TIMEOUT_S,
        guard: Guard | None = None,
    ) -> None:
        self._monitor = monitor
        self._cpu_replicas = cpu_replicas
        self._reckoner = reckoner
        self._guard = guard or Guard(None)
        self._ledger = Ledger()
        self._returns = Returns(monitor.fresh, self._release, return_timeout_s)
        self._turns = Turns(self._returns)
        self._room = WaitingRoom()
        self._ports = PortPool()
        self._on_returned: dict[Holding, OnReturned] = {}
        self._unkillable: dict[Holding, str] = {}
        """Why nobody is placed on the holding's GPU any more."""
        monitor.watch(self._look)

    @property
    def is_untouched(self) -> bool:
        """True while no replica holds anything."""
        return not self._ports.has_given and self._ledger.is_empty

    def devices(self) -> tuple[DeviceStatus, ...]:
        """Every GPU, as it was seen last."""
        owed = {device: owed.reason for device, owed in self._returns.owed.items()}
        machine = self._machine(self._monitor.snapshot)
        return describe_devices(machine.snapshot, owed, machine.reservations)

    def reserved(self) -> tuple[Reservation, ...]:
        """What is promised to replicas now."""
        return self._machine(self._monitor.snapshot).reservations

    async def stop(self) -> None:
        """Wait for no memory any more; call it when no replica is left."""
        await self._returns.stop()
        self._ports.close()

    # -- placing -------------------------------------------------------------------------------

    async def needs(self, pool: PoolConfig) -> Needs:
        """What a replica of the pool needs. Raises HostError where its model cannot be read."""
        # What another daemon left may hold just the memory that is looked for.
        await self._guard.sweep()
        return await self._reckoner.needs(pool)

    async def survey(self, pool: PoolConfig) -> Machine:
        """What there is for the pool, once what is gone has given back, and what is promised."""
        snapshot = await self._see(pool.devices)
        while await self._returns.settle_one(allow(pool.devices, snapshot).uuids):
            snapshot = await self._see(pool.devices)
        return self._machine(snapshot, for_pool=pool.id)

    def claim(self, pool_id: str, sizes_bytes: Mapping[str, int]) -> None:
        """Keep so much of each device for the pool's own replicas, until ``unclaim``."""
        self._ledger.claims[pool_id] = sizes_bytes

    def unclaim(self, pool_id: str) -> None:
        """Keep nothing more than what the pool's replicas hold."""
        if self._ledger.claims.pop(pool_id, None) is not None:
            self._look(self._monitor.snapshot)

    async def place(self, plan: ReplicaPlan, pool: PoolConfig) -> Lease | NoRoom:
        """Choose a device for a replica, reserve what it needs there, and wait for its turn.

        Raises HostError where the model cannot be read, is damaged, or no port is free.
        """
        needs = await self.needs(pool)
        while True:
            snapshot = await self._see(plan.devices)
            outcome = decide_placement(
                plan.devices, needs, self._machine(snapshot, for_pool=pool.id)
            )
            if isinstance(outcome, NoFit):
                # What a replica that is gone has still to give back may be just what lacks: its
                # own, when this is the next try of one that crashed.
                if await self._returns.settle_one(allow(plan.devices, snapshot).uuids):
                    continue
                return NoRoom(outcome.reason, plan, needs)
            weights_bytes = needs.of(outcome.device).weights_bytes
            holding = self._ledger.reserve(
                pool.id, plan.replica_id, outcome.device, outcome.need_bytes, weights_bytes
            )
            try:
                if await self._has_come_to_turn(holding, needs, snapshot):
                    return self._lease(holding, needs)
            except BaseException:
                self._let_go(holding)
                raise
            self._let_go(holding)

    def describe_progress(self, pool: PoolConfig) -> str:
        """What a placing of the pool is busy with, for the user; empty where it only waits."""
        return self._reckoner.describe_progress(pool)

    async def _has_come_to_turn(self, holding: Holding, needs: Needs, snapshot: Snapshot) -> bool:
        """Wait for the turn; False where there is no room any more when it comes."""
        if holding.device == CPU:
            return True
        if await self._turns.take(holding):
            snapshot = await self._monitor.fresh()
            # What exits while the driver is asked may be in its answer still.
            while await self._returns.settle_one((holding.device,)):
                snapshot = await self._monitor.fresh()
            machine = self._machine(snapshot, for_pool=holding.pool_id, without=holding)
            if isinstance(decide_placement((holding.device,), needs, machine), NoFit):
                return False
        gpu = snapshot.find(holding.device)
        assert gpu is not None, f"{holding.device} was chosen and is not there"
        holding.total_bytes, holding.baseline_bytes = gpu.total_bytes, gpu.used_bytes
        return True

    def _lease(self, holding: Holding, needs: Needs) -> Lease:
        footprint = needs.of(holding.device)
        port = self._ports.take()
        is_cpu_shared = holding.device == CPU and self._cpu_replicas > 1
        key = secrets.token_urlsafe(32)
        return Lease(holding.device, footprint, port, key, is_cpu_shared, holding)

    async def _see(self, devices: tuple[str, ...]) -> Snapshot:
        # Who is on the CPU alone must not wait for a driver.
        return self._monitor.snapshot if devices == (CPU,) else await self._monitor.fresh()

    def _machine(
        self, snapshot: Snapshot, for_pool: str | None = None, without: Holding | None = None
    ) -> Machine:
        reservations = self._ledger.reservations(
            snapshot, read_anonymous_bytes, for_pool=for_pool, without=without
        )
        shunned = {holding.device: reason for holding, reason in self._unkillable.items()}
        return Machine(quarantine(snapshot, shunned), read_host_memory(), reservations)

    # -- loading -------------------------------------------------------------------------------

    def note_process(self, lease: Lease, pid: int) -> None:
        """The replica's process runs; its pid is its session's."""
        lease.holding.session = pid

    def seen_bytes(self, lease: Lease) -> int:
        """What the replica has of its GPU, by the last reading; 0 on the CPU.

        Where the driver does not tell, all that is in use there.
        """
        gpu, session = self._monitor.snapshot.find(lease.device), lease.holding.session
        if gpu is None or session is None:
            return 0
        told = gpu.bytes_of(session)
        return gpu.used_bytes if told is None else told

    async def prove_memory(self, lease: Lease, pool: PoolConfig) -> None:
        """Make sure that a replica that answers is on the GPU it was given, and measure it.

        Raises EngineError where its memory there did not rise as it must, or cannot be seen.
        """
        if lease.device == CPU:
            return
        rise = await see_rise(self._monitor, lease.holding, pool.load_stall_s)
        wanted_bytes = wanted_rise_bytes(lease.holding)
        if rise.size_bytes < wanted_bytes:
            rose = f"{format_gib(rise.size_bytes)} of {format_gib(lease.holding.size_bytes)}"
            raise EngineError(
                f"loaded on the CPU instead of {lease.device}: its memory rose by {rose}"
            )
        lease.holding.rise_bytes = rise.size_bytes
        self._turns.give_back(lease.holding)
        self._look(self._monitor.snapshot)
        log.info(
            "measured a load replica=%s device=%s took=%s reserved=%s",
            *(lease.holding.replica_id, lease.device),
            *(format_gib(rise.size_bytes), format_gib(lease.holding.size_bytes)),
        )
        if is_its_own(rise, lease.holding):
            self._reckoner.learn(lease.footprint, rise.size_bytes)

    # -- giving back ---------------------------------------------------------------------------

    def used_bytes(self, device: str) -> int | None:
        """What is in use of a GPU by the last reading; None for the CPU, and where none was."""
        gpu = self._monitor.snapshot.find(device)
        return None if gpu is None else gpu.used_bytes

    def give_back(self, lease: Lease, on_returned: OnReturned | None = None) -> None:
        """The replica's process is gone. Its reservation ends when its memory is seen to be back,
        the turn that it may have at once; ``on_returned`` is called with the reservation's end."""
        self._ports.give_back(lease.port)
        holding = lease.holding
        if on_returned is not None:
            self._on_returned[holding] = on_returned
        self._unkillable.pop(holding, None)
        gpu = self._monitor.snapshot.find(holding.device)
        if holding.session is None or gpu is None:
            self._let_go(holding)
            return
        loading = self._ledger.loading_on(holding.device)
        target = note_exit(holding, gpu, None if loading is holding else loading)
        self._returns.begin(holding, target)
        # Not before: the next one in turn is to wait for what is outstanding.
        self._turns.give_back(holding)

    def abandon(self, lease: Lease, pid: int) -> None:
        """Its process cannot be killed: all that it holds stays held until ``give_back``, and
        nobody else is placed on its GPU, whose driver it hangs in."""
        self._turns.give_back(lease.holding)
        if lease.device != CPU:
            replica_id = lease.holding.replica_id
            reason = f"an engine of replica {replica_id} (pid {pid}) cannot be killed"
            self._unkillable[lease.holding] = reason

    def _let_go(self, holding: Holding) -> None:
        self._turns.give_back(holding)
        self._release(holding)

    def _release(self, holding: Holding) -> None:
        self._ledger.release(holding)
        if (on_returned := self._on_returned.pop(holding, None)) is not None:
            on_returned(self.used_bytes(holding.device))
        self._look(self._monitor.snapshot)

    # -- waiting for room ----------------------------------------------------------------------

    def wait_for_room(self, no_room: NoRoom, wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called once there is room; the answer calls it off."""
        waiter = Waiter(no_room.plan, no_room.needs, wake)
        self._room.enter(waiter)
        return partial(self._room.leave, waiter)

    def _look(self, snapshot: Snapshot) -> None:
        """Something may have become free."""
        self._ledger.see(snapshot)
        self._returns.look(snapshot)
        if not self._room.is_empty:
            self._room.wake(self._machine(snapshot))

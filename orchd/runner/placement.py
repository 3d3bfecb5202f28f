"""Which device a replica gets: of those allowed, the one with the most available memory.

Available = min(observed free − what is reserved and not yet in use, total − reserved). The first
of the two is what counts: a replica that has been placed and not loaded yet is in no observation,
and other programs are in no reservation. The second bounds it where what is in use was told too
high. A reservation counts from the decision until its memory is seen to be back, so two replicas
are never promised the same. Devices are known by UUID: CUDA's order and NVML's differ.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import count
from typing import assert_never

from orchd.config.model import PoolConfig
from orchd.runner.allowed import CPU, allow, label
from orchd.runner.footprint import Footprint, format_gib
from orchd.runner.snapshot import Gpu, HostMemory, Quarantined, Snapshot


@dataclass(frozen=True, slots=True)
class Reservation:
    """Memory of a device that was promised to a replica."""

    replica_id: str
    device: str
    size_bytes: int
    used_bytes: int = 0
    """What it is known to hold already, so that the device's free memory lacks it."""

    @property
    def unused_bytes(self) -> int:
        return max(self.size_bytes - self.used_bytes, 0)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a replica needs: VRAM is reckoned in another way than the machine's own memory."""

    on_gpu: Footprint
    on_cpu: Footprint

    def of(self, device: str) -> Footprint:
        return self.on_cpu if device == CPU else self.on_gpu


@dataclass(frozen=True, slots=True)
class Machine:
    """Where replicas can be placed, and what was promised of it."""

    snapshot: Snapshot
    host: HostMemory
    reservations: tuple[Reservation, ...] = ()

    def reserved_on(self, device: str) -> list[Reservation]:
        return [held for held in self.reservations if held.device == device]


@dataclass(frozen=True, slots=True)
class Placed:
    """The replica gets that device: a UUID, or ``cpu``."""

    device: str
    need_bytes: int


@dataclass(frozen=True, slots=True)
class NoFit:
    """No device can take it now; the reason is for the user and says so of each device."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """One wanted replica, and the devices that it may get, as ``devices`` is written."""

    replica_id: str
    devices: tuple[str, ...]


def plan_replicas(pool: PoolConfig, snapshot: Snapshot) -> tuple[ReplicaPlan, ...]:
    """The replicas that a pool wants on this machine; none where it is per device and there is
    none."""
    return number_replicas(pool.id, list_wanted(pool, snapshot))


def list_wanted(pool: PoolConfig, snapshot: Snapshot) -> list[tuple[str, ...]]:
    """For each replica that a pool wants on this machine, the devices that it may get."""
    if pool.replicas != "per-device":
        return [pool.devices] * pool.replicas
    uuids = allow(pool.devices, snapshot).uuids
    each: list[tuple[str, ...]] = [
        (gpu.uuid,) for gpu in snapshot.each() if gpu.uuid is not None and gpu.uuid in uuids
    ]
    return each + ([(CPU,)] if CPU in pool.devices else [])


def number_replicas(
    pool_id: str, wanted: Sequence[tuple[str, ...]], taken: Collection[str] = ()
) -> tuple[ReplicaPlan, ...]:
    """Replicas for these devices, under the lowest ids that are not ``taken``."""
    numbered = (f"{pool_id}-{n}" for n in count())
    free = (replica_id for replica_id in numbered if replica_id not in taken)
    return tuple(ReplicaPlan(next(free), devices) for devices in wanted)


def available_bytes(total_bytes: int, free_bytes: int, reserved: Sequence[Reservation]) -> int:
    """What a further replica may be promised of a device."""
    unused_bytes = sum(held.unused_bytes for held in reserved)
    reserved_bytes = sum(held.size_bytes for held in reserved)
    return max(min(free_bytes - unused_bytes, total_bytes - reserved_bytes), 0)


def decide_placement(devices: tuple[str, ...], needs: Needs, machine: Machine) -> Placed | NoFit:
    """Choose the device. Of equals the one with the lower index.

    The CPU is taken only where it is written, and then only if no GPU beside it has room.
    """
    sentences: list[str] = []
    footprint = needs.on_cpu if devices == (CPU,) else needs.on_gpu
    if devices != (CPU,):
        placed, sentences = _decide_gpu(devices, needs.on_gpu, machine)
        if placed is not None:
            return placed
    if CPU in devices:
        reserved, host = machine.reserved_on(CPU), machine.host
        available = available_bytes(host.total_bytes, host.available_bytes, reserved)
        need_bytes = needs.on_cpu.need_bytes
        if available >= need_bytes:
            return Placed(CPU, need_bytes)
        words = _explain(available, host.total_bytes, reserved)
        if need_bytes != footprint.need_bytes:
            words = f"would take {format_gib(need_bytes)} and {words}"
        sentences.append(f"the CPU {words}")
    need_words = f"needs {format_gib(footprint.need_bytes)} ({footprint.reckoning})"
    return NoFit(f"{need_words}: {'; '.join(sentences)}")


def _decide_gpu(
    devices: tuple[str, ...], footprint: Footprint, machine: Machine
) -> tuple[Placed | None, list[str]]:
    """The best GPU, and for each of them what speaks against it."""
    allowed = allow(devices, machine.snapshot)
    fitting: list[tuple[int, int, Placed]] = []
    reason = machine.snapshot.reason
    sentences = [reason] if reason is not None else list(allowed.complaints)
    for gpu in machine.snapshot.each():
        match gpu:
            case _ if gpu.uuid is not None and gpu.uuid not in allowed.uuids:
                sentences.append(f"{label(gpu)} is not among the pool's devices")
            case Quarantined():
                # Why none can be read is said once, not for each.
                if reason is None:
                    sentences.append(f"{label(gpu)} {gpu.reason}")
            case Gpu():
                reserved = machine.reserved_on(gpu.uuid)
                available = available_bytes(gpu.total_bytes, gpu.free_bytes, reserved)
                need_bytes = footprint.need_bytes_on(gpu.total_bytes)
                words = _explain(available, gpu.total_bytes, reserved)
                if need_bytes != footprint.need_bytes:
                    words = f"would take {format_gib(need_bytes)} and {words}"
                sentences.append(f"{label(gpu)} {words}")
                if available >= need_bytes:
                    fitting.append((-available, gpu.index, Placed(gpu.uuid, need_bytes)))
            case _:
                assert_never(gpu)
    best = min(fitting, key=lambda entry: entry[:2])[2] if fitting else None
    return best, sentences


def _explain(available: int, total_bytes: int, reserved: Sequence[Reservation]) -> str:
    have = f"has {format_gib(available)} available of {format_gib(total_bytes)}"
    if not reserved:
        return have
    promised = format_gib(sum(held.size_bytes for held in reserved))
    names = ", ".join(sorted({held.replica_id for held in reserved}))
    return f"{have}, {promised} reserved by {names}"

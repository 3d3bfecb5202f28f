"""Which device a replica gets: of those allowed, the one with the most available VRAM.

Available VRAM = min(observed free, total − reserved). A reservation counts from the decision until
its process is reaped, so two replicas that load at the same time are never promised the same
memory. Devices are known by UUID: CUDA's order and NVML's differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchd.config.model import PoolConfig
from orchd.runner.footprint import Footprint, format_gib

CPU = "cpu"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU as NVML saw it."""

    uuid: str
    index: int
    """In NVML's order."""
    name: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True)
class Placed:
    """The replica gets that device: a UUID, or ``cpu``."""

    device: str


@dataclass(frozen=True, slots=True)
class NoFit:
    """No device can take it now; the reason is for the user."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """One wanted replica, and the devices that it may get (``auto``, ``cpu``, UUIDs, indexes)."""

    replica_id: str
    devices: tuple[str, ...]


def plan_replicas(pool: PoolConfig, gpus: Sequence[Gpu]) -> tuple[ReplicaPlan, ...]:
    """The replicas that a pool wants on this machine."""
    if pool.replicas == "per-device":
        each: list[tuple[str, ...]] = [(gpu.uuid,) for gpu in allowed_gpus(pool.devices, gpus)]
        each += [(CPU,)] if CPU in pool.devices else []
        each = each or [pool.devices]
    else:
        each = [pool.devices] * pool.replicas
    return tuple(ReplicaPlan(f"{pool.id}-{n}", devices) for n, devices in enumerate(each))


def allowed_gpus(devices: tuple[str, ...], gpus: Sequence[Gpu]) -> list[Gpu]:
    """Those GPUs that ``devices`` names."""
    return [
        gpu
        for gpu in gpus
        if devices == ("auto",) or gpu.uuid in devices or str(gpu.index) in devices
    ]


def decide_placement(
    devices: tuple[str, ...],
    footprint: Footprint,
    gpus: Sequence[Gpu],
    reserved_bytes: Mapping[str, int],
) -> Placed | NoFit:
    """Choose the device; ``reserved_bytes`` by UUID is what other replicas were promised.

    The CPU is taken only where it is written, and then only if no GPU beside it has room.
    """
    outcome = _decide_gpu(allowed_gpus(devices, gpus), devices, footprint, gpus, reserved_bytes)
    return Placed(CPU) if isinstance(outcome, NoFit) and CPU in devices else outcome


def _decide_gpu(
    allowed: Sequence[Gpu],
    devices: tuple[str, ...],
    footprint: Footprint,
    gpus: Sequence[Gpu],
    reserved_bytes: Mapping[str, int],
) -> Placed | NoFit:
    if not allowed:
        seen = ", ".join(f"{gpu.index}: {gpu.uuid}" for gpu in gpus) or "none"
        return NoFit(f"none of the devices {', '.join(devices)} is there (seen: {seen})")

    def available_bytes(gpu: Gpu) -> int:
        unreserved_bytes = gpu.total_bytes - reserved_bytes.get(gpu.uuid, 0)
        return max(min(gpu.free_bytes, unreserved_bytes), 0)

    best = max(allowed, key=available_bytes)
    if available_bytes(best) >= footprint.need_bytes:
        return Placed(best.uuid)
    return NoFit(
        f"needs {format_gib(footprint.need_bytes)} ({footprint.reckoning}) and the best device,"
        f" {best.name}, has {format_gib(available_bytes(best))} available"
    )

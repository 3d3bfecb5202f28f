"""What the handlers work with, handed to them by the daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchd.config.model import PoolConfig
from orchd.metrics.collector import Collector
from orchd.metrics.cpu_watch import CpuUse
from orchd.metrics.registry import Registry
from orchd.serving.service import Service


class ReplicaView(Protocol):
    """A replica as its supervisor shows it."""

    @property
    def replica_id(self) -> str: ...
    @property
    def device(self) -> str | None: ...
    @property
    def state(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def restarts(self) -> int: ...
    @property
    def has_failed(self) -> bool: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def engine_version(self) -> str | None: ...


class DeviceView(Protocol):
    """A GPU as the supervisor shows it; None is what the driver does not tell."""

    @property
    def device(self) -> str | None: ...
    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str | None: ...
    @property
    def total_bytes(self) -> int | None: ...
    @property
    def free_bytes(self) -> int | None: ...
    @property
    def utilization(self) -> int | None: ...
    @property
    def reason(self) -> str | None: ...


class GpuView(Protocol):
    """A GPU as it was read last; None is what the driver does not tell."""

    @property
    def utilization(self) -> int | None: ...
    @property
    def used_bytes(self) -> int: ...
    def bytes_of(self, session: int) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Meters:
    """What /metrics is made of, beside what /health shows."""

    registry: Registry
    collector: Collector
    find_gpu: Callable[[str], GpuView | None]
    """By UUID; None for one that cannot be read now."""
    cpu_use_of: Callable[[int], CpuUse | None]
    """By pid."""


@dataclass(frozen=True, slots=True)
class Context:
    """The house behind the handlers."""

    service: Service
    pools: tuple[PoolConfig, ...]
    replicas: Callable[[str], Sequence[ReplicaView]]
    """The replicas of a pool, by its id."""
    devices: Callable[[], Sequence[DeviceView]]
    """The GPUs as they were seen last."""
    devices_reason: Callable[[], str | None]
    """Why no GPU can be seen, where none can."""
    meters: Meters

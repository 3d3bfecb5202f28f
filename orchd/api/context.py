"""What the handlers work with, handed to them by the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchd.config.model import PoolConfig
from orchd.metrics.collector import Collector
from orchd.metrics.cpu_watch import CpuUse
from orchd.metrics.registry import Registry
from orchd.reload_outcome import ReloadOutcome
from orchd.serving.service import Service


class ReplicaView(Protocol):
    """A replica as its supervisor shows it."""

    @property
    def replica_id(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def is_active(self) -> bool: ...
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
    def reserved_bytes(self) -> int: ...
    @property
    def utilization(self) -> int | None: ...
    @property
    def reason(self) -> str | None: ...


class ExitView(Protocol):
    """How a process ended."""

    @property
    def code(self) -> int | None: ...
    @property
    def signal(self) -> str | None: ...


class IncidentView(Protocol):
    """An engine's death as the supervisor keeps it."""

    @property
    def ended_at(self) -> float: ...
    @property
    def replica_id(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def pid(self) -> int: ...
    @property
    def cause(self) -> str: ...
    @property
    def exit_status(self) -> ExitView | None: ...
    @property
    def ready_s(self) -> float: ...
    @property
    def tasks(self) -> Sequence[str]: ...
    @property
    def memory_before_bytes(self) -> int | None: ...
    @property
    def memory_after_bytes(self) -> int | None: ...
    @property
    def last_lines(self) -> Sequence[str]: ...


class ReloadView(Protocol):
    """A reload under way, as the supervisor shows it."""

    @property
    def new_model_ref(self) -> str: ...
    @property
    def strategy(self) -> str | None: ...
    @property
    def step(self) -> str: ...
    @property
    def so_far_s(self) -> float: ...


class PoolView(Protocol):
    """A pool as the supervisor shows it."""

    @property
    def config(self) -> PoolConfig: ...
    @property
    def retired(self) -> Sequence[str]: ...
    @property
    def reload(self) -> ReloadView | None: ...
    @property
    def replicas(self) -> Sequence[ReplicaView]: ...
    @property
    def incidents(self) -> Sequence[IncidentView]: ...


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
    pools: Callable[[], Sequence[PoolView]]
    """How every pool stands, in the configuration's order."""
    devices: Callable[[], Sequence[DeviceView]]
    """The GPUs as they were seen last."""
    devices_reason: Callable[[], str | None]
    """Why no GPU can be seen, where none can."""
    meters: Meters
    reload: Callable[[str, str | None], asyncio.Future[ReloadOutcome]]
    """Reload a pool, by its id, with another model or with the same one afresh. Whoever waits for
    the future, or leaves, never cancels it."""

"""What the handlers work with, handed to them by the daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchd.config.model import PoolConfig
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

"""How the daemon stands, in one line for ``systemctl status``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchd.config.model import PoolConfig

_TOLD = 3
"""Replicas that are named; /health names all."""


class ReplicaView(Protocol):
    """A replica as its supervisor shows it."""

    @property
    def replica_id(self) -> str: ...
    @property
    def device(self) -> str | None: ...
    @property
    def state(self) -> str: ...
    @property
    def reason(self) -> str | None: ...
    @property
    def model(self) -> str: ...
    @property
    def is_active(self) -> bool: ...


class ReloadView(Protocol):
    """A reload under way."""

    @property
    def step(self) -> str: ...


class PoolView(Protocol):
    """A pool as its supervisor shows it."""

    @property
    def config(self) -> PoolConfig: ...
    @property
    def replicas(self) -> Sequence[ReplicaView]: ...
    @property
    def reload(self) -> ReloadView | None: ...


@dataclass(frozen=True, slots=True)
class Standing:
    """The line, and what of it is worth a line at once."""

    line: str
    turn: tuple[object, ...]
    """Another one whenever a replica is in another state; the seconds in the line only run on."""


def describe(pools: Iterable[PoolView]) -> Standing:
    """Of all pools; what a reload brings or takes away is told with the reload."""
    pools = tuple(pools)
    each = [replica for pool in pools for replica in pool.replicas if replica.is_active]
    waiting = [replica for replica in each if replica.reason is not None]
    reloads = [(pool.config.id, pool.reload) for pool in pools if pool.reload is not None]
    turn = (
        *((replica.replica_id, replica.state, replica.device) for replica in each),
        *((pool_id, reload.step) for pool_id, reload in reloads),
    )
    parts = [f"{len(each) - len(waiting)} of {len(each)} replicas ready"]
    parts += (_explain(replica) for replica in waiting[:_TOLD])
    if len(waiting) > _TOLD:
        parts.append(f"{len(waiting) - _TOLD} more, see /health")
    parts += (f"a reload of {pool_id} {reload.step}" for pool_id, reload in reloads[:_TOLD])
    return Standing("; ".join(parts) if each or reloads else "replicas are being planned", turn)


def _explain(replica: ReplicaView) -> str:
    where = "" if replica.device is None else f" ({replica.model} on {replica.device})"
    return f"{replica.replica_id}: {replica.reason}{where}"

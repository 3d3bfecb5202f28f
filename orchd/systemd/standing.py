"""How the daemon stands, in one line for ``systemctl status``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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


@dataclass(frozen=True, slots=True)
class Standing:
    """The line, and what of it is worth a line at once."""

    line: str
    turn: tuple[object, ...]
    """Another one whenever a replica is in another state; the seconds in the line only run on."""


def describe(
    pools: Iterable[PoolConfig], statuses: Callable[[str], Sequence[ReplicaView]]
) -> Standing:
    """Of all replicas; ``statuses`` has those of a pool, by its id."""
    each = [(pool, replica) for pool in pools for replica in statuses(pool.id)]
    turn = tuple((replica.replica_id, replica.state, replica.device) for _, replica in each)
    waiting = [(pool, replica) for pool, replica in each if replica.reason is not None]
    parts = [f"{len(each) - len(waiting)} of {len(each)} replicas ready"]
    parts += (_explain(pool, replica) for pool, replica in waiting[:_TOLD])
    if len(waiting) > _TOLD:
        parts.append(f"{len(waiting) - _TOLD} more, see /health")
    return Standing("; ".join(parts) if each else "replicas are being planned", turn)


def _explain(pool: PoolConfig, replica: ReplicaView) -> str:
    where = "" if replica.device is None else f" ({pool.model} on {replica.device})"
    return f"{replica.replica_id}: {replica.reason}{where}"

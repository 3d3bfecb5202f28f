"""The counters: what cannot be looked up when somebody asks, because it is over.

A replica's counts go on when it is started again under its id, and are dropped once it is gone for
good. Invariants: no count ever sinks; there are no more of them than there are replicas, but for
one, and than codes for each engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from orchd.errors import Code
from orchd.metrics.catalog import NONE, UNASSIGNED

_REASONS_BEFORE_A_POOL = (
    Code.INVALID_PARAMS,
    Code.REQUEST_TIMEOUT,
    Code.LENGTH_REQUIRED,
    Code.PAYLOAD_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.INTERNAL,
)
_REASONS_OF_A_POOL = (
    Code.INVALID_PARAMS,
    Code.CONFLICT,
    Code.ADMISSION_REJECT,
    Code.POOL_UNAVAILABLE,
)
"""What is shown as 0 before it happens: of a count that begins at 1, increase() misses the 1."""


@dataclass(slots=True)
class ReplicaCounts:
    """What one replica took and gave; the one called ``unassigned`` only ever takes."""

    enqueued: Counter[str] = field(default_factory=Counter)
    """By priority."""
    tokens_in: int = 0
    tokens_out: int = 0


class Registry:
    """All counts of this daemon. ``list_replicas`` tells the ids of the replicas that a pool has
    now."""

    def __init__(
        self, engines: Iterable[str], list_replicas: Callable[[str], Collection[str]]
    ) -> None:
        self._list_replicas = list_replicas
        self._replicas: dict[tuple[str, str], ReplicaCounts] = {}
        self._rejected: dict[tuple[str, str], int] = {
            **{(NONE, reason): 0 for reason in _REASONS_BEFORE_A_POOL},
            **{(engine, reason): 0 for engine in engines for reason in _REASONS_OF_A_POOL},
        }

    # -- what happens --------------------------------------------------------------------------

    def count_enqueued(self, pool_id: str, replica_id: str | None, priority: str) -> None:
        """A task was admitted, and taken by that replica at once unless it is None."""
        self._counts(pool_id, replica_id or UNASSIGNED).enqueued[priority] += 1

    def count_ended(
        self, pool_id: str, replica_id: str | None, tokens_in: int, tokens_out: int
    ) -> None:
        """A task has ended that ran on that replica last; None where it never ran."""
        if replica_id is not None:
            counts = self._counts(pool_id, replica_id)
            counts.tokens_in += tokens_in
            counts.tokens_out += tokens_out

    def count_rejected(self, engine: str | None, code: Code) -> None:
        """A task was refused; the engine is None where no pool was known."""
        key = (engine or NONE, code)
        self._rejected[key] = self._rejected.get(key, 0) + 1

    # -- how it stands -------------------------------------------------------------------------

    def of(self, pool_id: str, replica_id: str) -> ReplicaCounts:
        """The counts of a replica so far; not to be written to."""
        return self._replicas.get((pool_id, replica_id)) or ReplicaCounts()

    def rejected(self) -> dict[tuple[str, str], int]:
        """Refused tasks, by engine and reason."""
        return dict(self._rejected)

    def _counts(self, pool_id: str, replica_id: str) -> ReplicaCounts:
        key = (pool_id, replica_id)
        if (counts := self._replicas.get(key)) is None:
            self._drop_gone()
            counts = self._replicas[key] = ReplicaCounts()
        return counts

    def _drop_gone(self) -> None:
        """Only here is there one more than before, so this bounds them."""
        pools = {pool_id for pool_id, _ in self._replicas}
        there = {(pool, replica) for pool in pools for replica in self._list_replicas(pool)}
        self._replicas = {
            key: counts
            for key, counts in self._replicas.items()
            if key in there or key[1] == UNASSIGNED
        }

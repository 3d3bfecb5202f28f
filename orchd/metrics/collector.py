"""Puts a page together: the counts, and how everything stands in this very loop turn.

It asks for nothing that has to be waited for, so a page is of one moment. The samples are those of
the pools and replicas that there are now: a replica that is gone takes its samples along. One that
is started again keeps the version that its engine told last, until that tells another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchd.metrics import catalog
from orchd.metrics.catalog import UNASSIGNED, UNKNOWN, ModelState, Series
from orchd.metrics.exposition import Family, Sample
from orchd.metrics.registry import Registry

_VERSION_CHARS = 128
"""How much of what an engine calls its version becomes a label."""


@dataclass(frozen=True, slots=True)
class DeviceUse:
    """What is in use of a replica's device, as last seen; None is what nobody tells."""

    device: str
    utilization: float | None
    """0 to 1."""
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class ReplicaNow:
    """A replica as it stands."""

    replica_id: str
    version: str | None
    """Of its engine, where that has told it."""
    use: DeviceUse | None
    """None while it has no device."""


@dataclass(frozen=True, slots=True)
class PoolNow:
    """A pool as it stands."""

    pool_id: str
    engine: str
    model_id: str
    """The active model."""
    retired: Sequence[str]
    """Models that it has replaced."""
    depths: Mapping[str, int]
    """Waiting tasks, for each priority."""
    replicas: Sequence[ReplicaNow]


@dataclass(frozen=True, slots=True)
class _Labelled:
    """A pool with the label values of its samples."""

    now: PoolNow
    labels: tuple[str, ...]
    replicas: Sequence[tuple[ReplicaNow, tuple[str, ...]]]


class Collector:
    """Keeps, between one page and the next, only the versions that engines have told."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._versions: dict[tuple[str, str], str] = {}

    def collect(self, pools_now: Sequence[PoolNow]) -> list[Family]:
        """Every series of the catalogue, in its order, also one without samples."""
        self._note_versions(pools_now)
        pools = [self._label(now) for now in pools_now]
        counts = [
            (labels, self._registry.of(pool.now.pool_id, replica.replica_id))
            for pool in pools
            for replica, labels in pool.replicas
        ]
        uses = [
            ((*labels, replica.use.device), replica.use)
            for pool in pools
            for replica, labels in pool.replicas
            if replica.use is not None
        ]
        samples: Mapping[Series, Iterable[tuple[tuple[str, ...], float | None]]] = {
            catalog.QUEUE_DEPTH: _list_depths(pools),
            catalog.TASKS_ENQUEUED: self._list_enqueued(pools),
            catalog.TASKS_REJECTED: self._registry.rejected().items(),
            catalog.TOKENS_IN: ((labels, count.tokens_in) for labels, count in counts),
            catalog.TOKENS_OUT: ((labels, count.tokens_out) for labels, count in counts),
            catalog.GPU_UTILIZATION: ((labels, use.utilization) for labels, use in uses),
            catalog.VRAM_USED: ((labels, use.used_bytes) for labels, use in uses),
            catalog.MODEL_STATE: _list_models(pools),
        }
        # Lists, since CPython keeps some hundreds of KiB of the tuples that it has made of
        # generators, a few with every page.
        return [
            Family(series, [Sample(at, it) for at, it in samples[series] if it is not None])
            for series in catalog.CATALOG
        ]

    # -- labels ----------------------------------------------------------------------------------

    def _note_versions(self, pools: Sequence[PoolNow]) -> None:
        told = {
            (pool.pool_id, replica.replica_id): replica.version
            for pool in pools
            for replica in pool.replicas
        }
        self._versions = {
            key: (version or self._versions.get(key, UNKNOWN))[:_VERSION_CHARS]
            for key, version in told.items()
        }

    def _label(self, pool: PoolNow) -> _Labelled:
        of_replicas = [self._versions[pool.pool_id, r.replica_id] for r in pool.replicas]
        known = (version for version in of_replicas if version != UNKNOWN)
        labels = (pool.engine, next(known, UNKNOWN), pool.pool_id)
        replicas = [
            (replica, (pool.engine, version, pool.pool_id, replica.replica_id))
            for replica, version in zip(pool.replicas, of_replicas, strict=True)
        ]
        return _Labelled(pool, labels, replicas)

    # -- samples ---------------------------------------------------------------------------------

    def _list_enqueued(self, pools: Sequence[_Labelled]) -> Iterator[tuple[tuple[str, ...], int]]:
        for pool in pools:
            everyone = [(UNASSIGNED, (*pool.labels, UNASSIGNED))]
            everyone += [(replica.replica_id, labels) for replica, labels in pool.replicas]
            for replica_id, labels in everyone:
                enqueued = self._registry.of(pool.now.pool_id, replica_id).enqueued
                for priority in pool.now.depths:
                    yield (*labels, priority), enqueued[priority]


def _list_depths(pools: Sequence[_Labelled]) -> Iterator[tuple[tuple[str, ...], int]]:
    for pool in pools:
        for priority, depth in pool.now.depths.items():
            yield (*pool.labels, priority), depth


def _list_models(pools: Sequence[_Labelled]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Each model once: one pool may serve what another has retired."""
    active = dict.fromkeys(pool.now.model_id for pool in pools)
    retired = dict.fromkeys(model_id for pool in pools for model_id in pool.now.retired)
    for model_id in active:
        yield (model_id, ModelState.ACTIVE), 1
    for model_id in retired:
        if model_id not in active:
            yield (model_id, ModelState.RETIRED), 1

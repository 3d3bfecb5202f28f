"""What a daemon tells of itself in /health, read with doubt.

The daemon may be older or newer than this client: a key that is not known is passed over, one that
is not there is None or empty. Invariant: no text in here can steer a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orchd.logs.line import escape

_TOO_LARGE = 1 << 63
SERVES = ("ok", "degraded")
"""The statuses of a daemon in which a pool can take tasks."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU; None is what its driver does not tell."""

    device: str | None
    index: int | None
    name: str | None
    total_bytes: int | None
    free_bytes: int | None
    reserved_bytes: int
    utilization: int | None
    reason: str | None

    @property
    def label(self) -> str:
        return "GPU" if self.index is None else f"GPU {self.index}"


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica; ``tokens_streamed`` counts up from 0 since it became ready, None before."""

    replica_id: str
    device: str | None
    state: str
    slots_busy: int
    slots_total: int
    tokens_streamed: int | None
    restarts: int
    reason: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool; ``notes`` are sentences of what is not as usual with it."""

    pool_id: str
    model: str
    engine: str
    queued: tuple[tuple[str, int], ...]
    replicas: tuple[Replica, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """All of it, at one moment."""

    status: str
    version: str
    devices: tuple[Device, ...]
    devices_reason: str | None
    pools: tuple[Pool, ...]

    @property
    def can_serve(self) -> bool:
        """Whether any pool can."""
        return self.status in SERVES

    @property
    def is_busy(self) -> bool:
        """Whether any slot is."""
        return any(replica.slots_busy for pool in self.pools for replica in pool.replicas)


Rates = Mapping[str, float]
"""Tokens a second by replica id, of those of which it is known."""


def measure_rates(before: Standing | None, after: Standing, span_s: float) -> Rates:
    """How fast each replica was between two looks, taken ``span_s`` apart.

    One look alone knows it of what does nothing.
    """
    known = {} if before is None else dict(_list_tokens(before))
    rates = {}
    for pool in after.pools:
        for replica in pool.replicas:
            tokens, was = replica.tokens_streamed, known.get(replica.replica_id)
            if tokens is None:
                continue
            if was is not None and span_s > 0:
                # Fewer than before: it was started afresh between the two.
                rates[replica.replica_id] = (tokens - was if tokens >= was else tokens) / span_s
            elif not replica.slots_busy:
                rates[replica.replica_id] = 0.0
    return rates


def _list_tokens(standing: Standing) -> Iterator[tuple[str, int]]:
    for pool in standing.pools:
        for replica in pool.replicas:
            if replica.tokens_streamed is not None:
                yield replica.replica_id, replica.tokens_streamed


# -- reading it --------------------------------------------------------------------------------


def read_standing(body: Mapping[str, object]) -> Standing:
    """An answer of /health as values; raises nothing, whatever it holds."""
    return Standing(
        status=_text(body.get("status")) or "unknown",
        version=_text(body.get("version")) or "",
        devices=tuple(_read_device(item) for item in _tables(body.get("devices"))),
        devices_reason=_text(body.get("devices_reason")),
        pools=tuple(_read_pool(item) for item in _tables(body.get("pools"))),
    )


def _read_device(told: Mapping[str, object]) -> Device:
    return Device(
        device=_text(told.get("device")),
        index=_count(told.get("index")),
        name=_text(told.get("name")),
        total_bytes=_count(told.get("total_bytes")),
        free_bytes=_count(told.get("free_bytes")),
        reserved_bytes=_count(told.get("reserved_bytes")) or 0,
        utilization=_count(told.get("utilization")),
        reason=_text(told.get("reason")),
    )


def _read_pool(told: Mapping[str, object]) -> Pool:
    engine = [_text(told.get(key)) for key in ("engine", "engine_version")]
    queue, tokens = told.get("queue"), told.get("tokens_streamed")
    depths = queue.items() if isinstance(queue, Mapping) else ()
    counts = tokens if isinstance(tokens, Mapping) else {}
    return Pool(
        pool_id=_text(told.get("pool_id")) or "",
        model=_text(told.get("model")) or "",
        engine=" ".join(word for word in engine if word),
        queued=tuple((_text(key) or "", _count(depth) or 0) for key, depth in depths),
        replicas=tuple(_read_replica(item, counts) for item in _tables(told.get("replicas"))),
        notes=tuple(_list_notes(told)),
    )


def _read_replica(told: Mapping[str, object], counts: Mapping[object, object]) -> Replica:
    replica_id = _text(told.get("replica_id")) or ""
    return Replica(
        replica_id=replica_id,
        device=_text(told.get("device")),
        state=_text(told.get("state")) or "",
        slots_busy=_count(told.get("slots_busy")) or 0,
        slots_total=_count(told.get("slots_total")) or 0,
        tokens_streamed=_count(counts.get(replica_id)),
        restarts=_count(told.get("restarts")) or 0,
        reason=_text(told.get("reason")),
        model=_text(told.get("model")),
    )


def _list_notes(told: Mapping[str, object]) -> Iterator[str]:
    reload = told.get("reload")
    if isinstance(reload, Mapping):
        how = [_text(reload.get(key)) for key in ("strategy", "step")]
        words = ", ".join(word for word in how if word)
        model = _text(reload.get("new_model_ref")) or "another model"
        yield f"is being reloaded to {model}" + (f" ({words})" if words else "")
    incidents = tuple(_tables(told.get("incidents")))
    if incidents:
        last = incidents[-1]
        when, who = _text(last.get("at")) or "", _text(last.get("replica_id")) or "an engine"
        cause = _text(last.get("cause")) or "not known"
        yield f"last death, {when[:19].replace('T', ' ')} UTC: {who} {cause}"


def _tables(value: object) -> Iterator[Mapping[str, object]]:
    if isinstance(value, list):
        yield from (item for item in value if isinstance(item, Mapping))


def _text(value: object) -> str | None:
    return escape(value) if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    """JSON may hold any number, true among them; a count is none of the others."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _TOO_LARGE:
        return None
    return value

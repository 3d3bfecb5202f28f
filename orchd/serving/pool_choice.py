"""Which pool serves a request: the one that fits all that the client named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Generation
from orchd.errors import Code
from orchd.serving.task import Priority, Rejected, TaskSpec


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """What a client sent, each field valid by itself."""

    generation: Generation
    priority: Priority = Priority.INTERACTIVE
    task_id: str | None = None
    session_id: str | None = None
    pool_id: str | None = None
    model_ref: str | None = None
    """A pool's model as configured, or the file name of it."""
    engine: str | None = None
    ctx: int | None = None
    """Tokens of context that the task needs."""
    size_bytes: int = 0
    """Of the request's body."""


def decide_spec(
    request: TaskRequest, task_id: str, pools: Iterable[PoolConfig]
) -> TaskSpec | Rejected:
    """Complete the request with its pool, or say why no pool fits."""
    pools = tuple(pools)
    fitting = [pool for pool in pools if _fits(request, pool)]
    match fitting:
        case [pool]:
            pass
        case []:
            known = ", ".join(f"{p.id} ({p.engine}, {PurePath(p.model).name})" for p in pools)
            asked = ", ".join(f"{key} {value!r}" for key, value in _named(request).items())
            return Rejected(Code.INVALID_PARAMS, f"no pool has {asked}; there are: {known}")
        case _:
            ids = ", ".join(pool.id for pool in fitting)
            return Rejected(
                Code.INVALID_PARAMS,
                f"more than one pool could serve this; name a pool_id of: {ids}",
            )
    if request.ctx is not None and request.ctx > pool.ctx:
        return Rejected(
            Code.INVALID_PARAMS,
            f"ctx: {request.ctx} is above the {pool.ctx} tokens that a slot of {pool.id} has",
            pool.engine,
        )
    return TaskSpec(
        task_id,
        pool.id,
        request.priority,
        request.session_id,
        request.generation,
        request.size_bytes,
    )


def _named(request: TaskRequest) -> dict[str, str]:
    fields = {
        "pool_id": request.pool_id,
        "model_ref": request.model_ref,
        "engine": request.engine,
    }
    return {key: value for key, value in fields.items() if value is not None}


def _fits(request: TaskRequest, pool: PoolConfig) -> bool:
    return (
        (request.pool_id is None or request.pool_id == pool.id)
        and (request.model_ref is None or request.model_ref in _names_of(pool.model))
        and (request.engine is None or request.engine == pool.engine)
    )


def _names_of(model: str) -> tuple[str, str]:
    return model, PurePath(model).name

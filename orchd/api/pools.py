"""Reload a pool's model."""

from __future__ import annotations

from orchd.api import wire
from orchd.api.context import Context
from orchd.api.reload_body import read_new_model_ref
from orchd.config.model import PoolConfig
from orchd.errors import ClientError, Code
from orchd.http1.messages import PendingResponse, Reply, Request
from orchd.serving.pace import UNMEASURED_BACKOFF_S
from orchd.serving.task import Rejected


def reload(context: Context, request: Request) -> Reply:
    """POST /v1/pools/{pool_id}/reload"""
    pool = _find(context, request)
    new_model_ref = read_new_model_ref(request.body, pool.engine)
    if context.service.is_stopping:
        stopping = "the daemon is stopping"
        return wire.rejected_response(
            Rejected(Code.POOL_UNAVAILABLE, stopping, pool.engine, UNMEASURED_BACKOFF_S)
        )
    reloading = context.reload(pool.id, new_model_ref)
    return PendingResponse(reloading, lambda: wire.reload_response(reloading.result(), pool.engine))


def _find(context: Context, request: Request) -> PoolConfig:
    pool_id = request.params["pool_id"]
    for pool in context.pools():
        if pool.config.id == pool_id:
            return pool.config
    raise ClientError(Code.NOT_FOUND, f"there is no pool {pool_id[:64]}")

"""Shows how the daemon stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orchd
from orchd.api import wire
from orchd.api.context import Context, DeviceView, IncidentView, PoolView, ReloadView, ReplicaView
from orchd.http1.messages import Reply, Request

_COMING = ("placing", "loading")


def show(context: Context, request: Request) -> Reply:
    """GET /health"""
    pools = context.pools()
    replicas = [replica for pool in pools for replica in pool.replicas if replica.is_active]
    is_held = any(context.service.is_held(pool.config.id) for pool in pools)
    is_stopping = context.service.is_stopping
    status = "unavailable" if is_stopping else decide_status(replicas, is_held=is_held)
    can_serve = status in ("ok", "degraded")
    body = {
        "status": status,
        "version": orchd.__version__,
        "pools": [_describe_pool(context, pool) for pool in pools],
        "devices": [_describe_device(device) for device in context.devices()],
        "devices_reason": context.devices_reason(),
    }
    return wire.json_response(HTTPStatus.OK if can_serve else HTTPStatus.SERVICE_UNAVAILABLE, body)


def decide_status(replicas: Sequence[ReplicaView], *, is_held: bool = False) -> str:
    """One word for all active replicas: ``ok``, ``degraded``, ``starting`` or ``unavailable``.

    ``starting`` is a first start that has not failed; no replica at all is one not planned yet.
    Where a pool is held, a reload has its replicas down, and tasks are admitted and wait.
    """
    ready = [replica.reason is None for replica in replicas]
    if ready and all(ready) and not is_held:
        return "ok"
    if any(ready) or is_held:
        return "degraded"
    is_first_start = any(r.state in _COMING and not r.has_failed for r in replicas)
    return "starting" if is_first_start or not replicas else "unavailable"


def _describe_pool(context: Context, pool: PoolView) -> dict[str, Any]:
    pool_id = pool.config.id
    versions = [replica.engine_version for replica in pool.replicas if replica.engine_version]
    return {
        "pool_id": pool_id,
        "engine": pool.config.engine,
        "engine_version": versions[0] if versions else None,
        "model": pool.config.model,
        "model_state": "Active",
        "retired": list(pool.retired),
        "reload": None if pool.reload is None else _describe_reload(pool.reload),
        "queue": {p.value: n for p, n in context.service.queue_depths(pool_id).items()},
        # Beside the replicas: each of those is a state, and a count would make it another.
        "tokens_streamed": {
            replica.replica_id: slots.texts
            for replica in pool.replicas
            if (slots := context.service.slots(pool_id, replica.replica_id)) is not None
        },
        "replicas": [_describe_replica(context, pool_id, replica) for replica in pool.replicas],
        "incidents": [_describe_incident(incident) for incident in pool.incidents],
    }


def _describe_reload(reload: ReloadView) -> dict[str, Any]:
    return {
        "new_model_ref": reload.new_model_ref,
        "strategy": reload.strategy,
        "step": reload.step,
        "so_far_s": round(reload.so_far_s, 3),
    }


def _describe_replica(context: Context, pool_id: str, replica: ReplicaView) -> dict[str, Any]:
    slots = context.service.slots(pool_id, replica.replica_id)
    return {
        "replica_id": replica.replica_id,
        "model": replica.model,
        "device": replica.device,
        "state": replica.state,
        "pid": replica.pid,
        "slots_busy": slots.busy if slots else 0,
        "slots_total": slots.total if slots else 0,
        "restarts": replica.restarts,
        "reason": replica.reason,
    }


def _describe_incident(incident: IncidentView) -> dict[str, Any]:
    status = incident.exit_status
    return {
        "at": datetime.fromtimestamp(incident.ended_at, UTC).isoformat(timespec="milliseconds"),
        "replica_id": incident.replica_id,
        "device": incident.device,
        "pid": incident.pid,
        "cause": incident.cause,
        "exit_code": status.code if status else None,
        "signal": status.signal if status else None,
        "ready_s": round(incident.ready_s, 3),
        "tasks": list(incident.tasks),
        "memory_before_bytes": incident.memory_before_bytes,
        "memory_after_bytes": incident.memory_after_bytes,
        "last_lines": list(incident.last_lines),
    }


def _describe_device(device: DeviceView) -> dict[str, Any]:
    return {
        "device": device.device,
        "index": device.index,
        "name": device.name,
        "total_bytes": device.total_bytes,
        "free_bytes": device.free_bytes,
        "reserved_bytes": device.reserved_bytes,
        "utilization": device.utilization,
        "reason": device.reason,
    }

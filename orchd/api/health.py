"""Shows how the daemon stands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import orchd
from orchd.api import wire
from orchd.api.context import Context, DeviceView, IncidentView, ReplicaView
from orchd.config.model import PoolConfig
from orchd.http1.messages import Reply, Request

_COMING = ("placing", "loading")


def show(context: Context, request: Request) -> Reply:
    """GET /health"""
    pools = [_describe_pool(context, pool) for pool in context.pools]
    views = [view for pool in context.pools for view in context.replicas(pool.id)]
    status = "unavailable" if context.service.is_stopping else decide_status(views)
    can_serve = status in ("ok", "degraded")
    body = {
        "status": status,
        "version": orchd.__version__,
        "pools": pools,
        "devices": [_describe_device(device) for device in context.devices()],
        "devices_reason": context.devices_reason(),
    }
    return wire.json_response(HTTPStatus.OK if can_serve else HTTPStatus.SERVICE_UNAVAILABLE, body)


def decide_status(replicas: Sequence[ReplicaView]) -> str:
    """One word for all replicas: ``ok``, ``degraded``, ``starting`` or ``unavailable``.

    ``starting`` is a first start that has not failed; no replica at all is one not planned yet.
    """
    ready = [replica.reason is None for replica in replicas]
    if ready and all(ready):
        return "ok"
    if any(ready):
        return "degraded"
    is_first_start = any(r.state in _COMING and not r.has_failed for r in replicas)
    return "starting" if is_first_start or not replicas else "unavailable"


def _describe_pool(context: Context, pool: PoolConfig) -> dict[str, Any]:
    replicas = context.replicas(pool.id)
    versions = [replica.engine_version for replica in replicas if replica.engine_version]
    return {
        "pool_id": pool.id,
        "engine": pool.engine,
        "engine_version": versions[0] if versions else None,
        "model": pool.model,
        "model_state": "Active",
        "queue": {p.value: n for p, n in context.service.queue_depths(pool.id).items()},
        # Beside the replicas: each of those is a state, and a count would make it another.
        "tokens_streamed": {
            replica.replica_id: slots.texts
            for replica in replicas
            if (slots := context.service.slots(pool.id, replica.replica_id)) is not None
        },
        "replicas": [_describe_replica(context, pool.id, replica) for replica in replicas],
        "incidents": [_describe_incident(incident) for incident in context.incidents(pool.id)],
    }


def _describe_replica(context: Context, pool_id: str, replica: ReplicaView) -> dict[str, Any]:
    slots = context.service.slots(pool_id, replica.replica_id)
    return {
        "replica_id": replica.replica_id,
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

"""Shows what an operator's Prometheus gathers."""

from __future__ import annotations

from http import HTTPStatus

from orchd.api.context import Context, PoolView, ReplicaView
from orchd.http1.messages import Headers, Reply, Request, Response
from orchd.metrics.collector import DeviceUse, PoolNow, ReplicaNow
from orchd.metrics.exposition import CONTENT_TYPE, write_exposition

_HEADERS: Headers = ((b"content-type", CONTENT_TYPE), (b"cache-control", b"no-store"))
_CPU = "cpu"


def show(context: Context, request: Request) -> Reply:
    """GET /metrics"""
    pools = [_look_at_pool(context, pool) for pool in context.pools()]
    families = context.meters.collector.collect(pools)
    return Response(HTTPStatus.OK, write_exposition(families), _HEADERS)


def _look_at_pool(context: Context, pool: PoolView) -> PoolNow:
    depths = context.service.queue_depths(pool.config.id)
    return PoolNow(
        pool_id=pool.config.id,
        engine=pool.config.engine,
        model_id=pool.config.model,
        retired=pool.retired,
        depths={priority.value: depth for priority, depth in depths.items()},
        replicas=[
            ReplicaNow(
                replica.replica_id, replica.engine_version, _look_at_device(context, replica)
            )
            for replica in pool.replicas
        ],
    )


def _look_at_device(context: Context, replica: ReplicaView) -> DeviceUse | None:
    device, pid = replica.device, replica.pid
    if device is None or pid is None:
        return None
    if device == _CPU:
        process = context.meters.cpu_use_of(pid)
        if process is None:
            return None
        return DeviceUse(device, process.share, process.resident_bytes)
    gpu = context.meters.find_gpu(device)
    if gpu is None:
        return None
    # An engine's pid names its session.
    own_bytes = gpu.bytes_of(pid)
    percent = gpu.utilization
    return DeviceUse(
        device,
        None if percent is None else percent / 100,
        gpu.used_bytes if own_bytes is None else own_bytes,
    )

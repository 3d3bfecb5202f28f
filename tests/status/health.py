"""Answers of /health to show."""

from __future__ import annotations

from typing import Any

GIB = 1 << 30


def device(index: int, name: str = "NVIDIA GeForce RTX 3090", **more: object) -> dict[str, Any]:
    plain = {
        "device": f"GPU-{index}",
        "index": index,
        "name": name,
        "total_bytes": 24 * GIB,
        "free_bytes": 18 * GIB,
        "reserved_bytes": 12 * GIB,
        "utilization": 97,
        "reason": None,
    }
    return plain | more


LOST = device(1, free_bytes=None, utilization=None, reason="has fallen off the bus")


def replica(replica_id: str = "chat-0", **more: object) -> dict[str, Any]:
    plain = {
        "replica_id": replica_id,
        "device": "GPU-0",
        "state": "ready",
        "pid": 4242,
        "slots_busy": 0,
        "slots_total": 4,
        "restarts": 0,
        "reason": None,
    }
    return plain | more


def pool(
    *replicas: dict[str, Any], tokens: dict[str, int] | None = None, **more: object
) -> dict[str, Any]:
    """``tokens`` that each replica has streamed; 0 each where none are said."""
    plain = {
        "pool_id": "chat",
        "engine": "llamacpp",
        "engine_version": "b11434",
        "model": "/models/llama-3-8b-instruct.Q4_K_M.gguf",
        "model_state": "Active",
        "queue": {"interactive": 3, "batch": 0},
        "tokens_streamed": {r["replica_id"]: 0 for r in replicas} if tokens is None else tokens,
        "replicas": list(replicas),
        "incidents": [],
    }
    return plain | more


def health(*pools: dict[str, Any], **more: object) -> dict[str, Any]:
    plain = {
        "status": "ok",
        "version": "0.1.0",
        "pools": list(pools),
        "devices": [device(0), LOST],
        "devices_reason": None,
    }
    return plain | more

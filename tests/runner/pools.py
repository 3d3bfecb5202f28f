"""Pools to test with: written in one line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from orchd.config.model import PoolConfig


def make_pool(
    pool_id: str = "chat",
    *,
    model: str | Path = "/models/m.gguf",
    replicas: int | Literal["per-device"] = 1,
    devices: tuple[str, ...] = ("cpu",),
    vram_mib: int | None = None,
    binary: str | Path | None = None,
    load_stall_s: float = 30.0,
    env: Mapping[str, str] | None = None,
    slots: int = 2,
    ctx: int = 4096,
    args: tuple[str, ...] = (),
    sha256: str | None = None,
) -> PoolConfig:
    """A llama.cpp pool."""
    return PoolConfig(
        id=pool_id,
        engine="llamacpp",
        model=str(model),
        replicas=replicas,
        devices=devices,
        vram_mib=vram_mib,
        binary=None if binary is None else str(binary),
        load_stall_s=load_stall_s,
        env=env or {},
        slots=slots,
        ctx=ctx,
        args=args,
        sha256=sha256,
    )

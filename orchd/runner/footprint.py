"""The footprint: the VRAM that one replica needs, reckoned before it starts.

``vram_mib`` is taken as it is. Otherwise: the model file (its weights go to the device whole) plus
a tenth for buffers, plus half a GiB for the CUDA context and a modest KV cache.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchd.config.model import PoolConfig

MIB = 1024 * 1024
_OVERHEAD_BYTES = 512 * MIB


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of VRAM, and how they were reckoned, for the user."""

    need_bytes: int
    reckoning: str


def reckon_footprint(pool: PoolConfig, model_bytes: int) -> Footprint:
    """What a replica of this pool needs for a model file of that size."""
    if pool.vram_mib is not None:
        return Footprint(pool.vram_mib * MIB, "vram_mib of the configuration")
    need_bytes = model_bytes + model_bytes // 10 + _OVERHEAD_BYTES
    return Footprint(need_bytes, f"model file {format_gib(model_bytes)}, a tenth, and 0.5 GiB")


def format_gib(size_bytes: int) -> str:
    """For people: ``9.1 GiB``."""
    return f"{size_bytes / (1024 * MIB):.1f} GiB"

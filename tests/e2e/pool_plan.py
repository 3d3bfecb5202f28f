"""Configurations of many small pools on the fake engine, each with faults of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.fakes.engines import install_engine, write_model
from tests.fakes.nvml import FakeNvml

NEED_MIB = 900
STALL_S = 2
"""For the pools that are to stall: long beside a pause of the machine."""
PATIENCE_S = 60
"""For all others."""


@dataclass(frozen=True)
class PoolPlan:
    """A pool as a test wants it."""

    pool_id: str
    faults: Mapping[str, object] = field(default_factory=dict)
    keys: str = ""
    """Further lines of TOML."""
    card: int | None = None
    """Its GPU, by its place in the list; None for the CPU."""


def write_pools(
    folder: Path, holds: Path, nvml: FakeNvml | None, pools: Sequence[PoolPlan]
) -> Path:
    """A configuration; each pool has one slot and much patience, unless it says else."""
    model, binary = write_model(folder), install_engine(folder)
    # A test may look elsewhere for as long as it likes before it reads a stream.
    lines = ["[server]", 'listen = "127.0.0.1:0"', "[tasks]", "abandon_after_s = 600"]
    for pool in pools:
        faults: dict[str, object] = {"loads_while": holds / pool.pool_id, "onces": holds}
        faults["gates"] = holds
        if pool.card is not None:
            assert nvml is not None
            faults |= nvml.engine_faults(NEED_MIB)
        env = ", ".join(
            f'FAKE_{name.upper()} = "{value}"' for name, value in {**faults, **pool.faults}.items()
        )
        device = "cpu" if pool.card is None else pool.card
        settings = {
            "id": pool.pool_id,
            "engine": "llamacpp",
            "model": str(model),
            "binary": str(binary),
            "devices": [device],
            "slots": 1,
            "load_stall_s": PATIENCE_S,
            "decode_stall_s": PATIENCE_S,
        }
        written = {line.partition("=")[0].strip() for line in pool.keys.splitlines()}
        lines.append("[[pools]]")
        lines += [f"{k} = {json.dumps(v)}" for k, v in settings.items() if k not in written]
        if pool.card is not None:
            lines += [f"vram_mib = {NEED_MIB}"] * ("vram_mib" not in written)
        lines += [f"env = {{ {env} }}", pool.keys]
    config = folder / "orchd.toml"
    config.write_text("\n".join(lines) + "\n")
    return config

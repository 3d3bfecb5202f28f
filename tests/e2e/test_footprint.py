"""The reckoning against what the real engine takes, as it prints it and as the kernel counts it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchd import engines
from orchd.config.model import PoolConfig
from orchd.engines.adapter import Launch
from orchd.engines.llamacpp import LlamaCpp
from orchd.runner.footprint import Footprint, reckon_footprint
from orchd.runner.model_file import ModelReader

MIB = 1024 * 1024
START_TIMEOUT_S = 90.0
_PRINTED = re.compile(r"(model|KV|compute|output) buffer size = +([\d.]+) MiB")


@dataclass(frozen=True, slots=True)
class Taken:
    """What an engine took: by the lines that it printed, and in all."""

    printed_bytes: dict[str, float]
    resident_bytes: int


def make_pool(model: Path, slots: int, ctx: int, *args: str) -> PoolConfig:
    return PoolConfig(
        id="demo",
        engine="llamacpp",
        model=str(model),
        devices=("cpu",),
        slots=slots,
        ctx=ctx,
        args=("-lv", "4", *args),
    )


def run_engine(pool: PoolConfig, engine_path: str) -> Taken:
    """Start the engine as a replica does, read what it says until it listens, and end it."""
    adapter = LlamaCpp()
    launch = Launch(pool.model, "cpu", "127.0.0.1", 0, "a-key-for-tests")
    binary = shutil.which("llama-server", path=engine_path)
    script = str(Path(engines.__file__).with_name("embedded_llamacpp.py"))
    command = [binary] if binary else [sys.executable, "-P", script]
    with subprocess.Popen(
        [*command, *adapter.arguments(pool, launch)],
        env=adapter.environment(launch),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as engine:
        watchdog = threading.Timer(START_TIMEOUT_S, engine.kill)
        watchdog.start()
        try:
            assert engine.stderr is not None
            said: list[str] = []
            for line in engine.stderr:
                said.append(line)
                if "listening on " in line:
                    status = Path(f"/proc/{engine.pid}/status").read_text()
                    break
            else:
                raise AssertionError(f"the engine did not come up:\n{''.join(said[-20:])}")
        finally:
            watchdog.cancel()
            engine.kill()
    # Of lines that come twice the first is of a trial that allocates nothing.
    printed = {what: float(mib) * MIB for what, mib in _PRINTED.findall("".join(said))}
    (resident_kib,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return Taken(printed, int(resident_kib) * 1024)


def reckon(pool: PoolConfig) -> Footprint:
    demand = LlamaCpp().memory_demand(pool, "cpu")
    return reckon_footprint(pool, demand, ModelReader(pool.model).read().loaded)


def size_of(footprint: Footprint, what: str) -> int:
    (size_bytes,) = [item.size_bytes for item in footprint.items if item.what.startswith(what)]
    return size_bytes


def compare(name: str, engine_bytes: float, ours: int) -> None:
    print(f"{name:28} {engine_bytes / MIB:8.2f} MiB {ours / MIB:8.2f} MiB ours")
    assert ours == pytest.approx(engine_bytes, rel=0.1)


def test_the_items_are_those_of_the_real_engine(demo_model: Path, engine_path: str) -> None:
    """Two sizes of context, and a cache that is kept in two other types."""
    pools = [
        make_pool(demo_model, 2, 1024),
        make_pool(demo_model, 4, 4096),
        make_pool(demo_model, 2, 4096, "-ctk", "q8_0", "-ctv", "q4_0", "-fa", "on"),
    ]
    taken = [run_engine(pool, engine_path) for pool in pools]
    footprints = [reckon(pool) for pool in pools]
    for pool, real, footprint in zip(pools, taken, footprints, strict=True):
        name = f"{pool.slots} × {pool.ctx}"
        compare(f"{name} weights", real.printed_bytes["model"], size_of(footprint, "weights"))
        compare(f"{name} KV cache", real.printed_bytes["KV"], size_of(footprint, "KV cache"))
        compare(
            f"{name} compute buffer",
            real.printed_bytes["compute"],
            size_of(footprint, "compute buffer"),
        )
    compare(
        "growth of resident memory",
        taken[1].resident_bytes - taken[0].resident_bytes,
        footprints[1].need_bytes - footprints[0].need_bytes,
    )
    # The prompt cache is empty yet; all else is there, and the floor of the whole is not missed.
    whole = footprints[1].need_bytes - size_of(footprints[1], "prompt cache")
    compare("resident memory", taken[1].resident_bytes, whole)

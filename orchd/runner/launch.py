"""Starts the engine of a replica that has its lease."""

from __future__ import annotations

import os

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Adapter, Launch
from orchd.engines.command import fill_environment
from orchd.runner.environment import build_environment
from orchd.runner.executable import find_executable
from orchd.runner.guard import Guard
from orchd.runner.ports import HOST
from orchd.runner.process import EngineProcess, Watcher
from orchd.runner.resources import Lease


def launch_engine(
    adapter: Adapter, pool: PoolConfig, lease: Lease, watcher: Watcher, guard: Guard
) -> tuple[EngineProcess, str | None]:
    """The running engine, and its version where that is known without asking it.

    Raises HostError where this machine has no such engine or no process can be started.
    """
    holding = lease.holding
    launch = Launch(
        *(pool.model, lease.device, HOST, lease.port, lease.key, lease.is_cpu_shared),
        memory_share=holding.size_bytes / holding.total_bytes if holding.total_bytes else None,
        reserved_bytes=holding.size_bytes,
        cache_bytes=lease.footprint.cache_bytes,
    )
    found = find_executable(adapter.executables(pool))
    environment = build_environment(
        os.environ,
        adapter.environment(launch),
        fill_environment(pool.env, lease.key),
        lease.device,
    )
    process = EngineProcess(
        [*found.command, *adapter.arguments(pool, launch)], environment, watcher, guard
    )
    return process, found.version

"""``orchd check``: what the daemon would do with a configuration, told before anything starts.

A composition root of its own beside ``daemon``: it reads the devices and the models once, places
every replica of every pool in the configuration's order with the daemon's own decisions, and starts
nothing. What other programs hold now counts as theirs, a running daemon's engines too. The daemon
decides as the model files are read, so where room is short another of the pools may come first.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TextIO

from orchd.config.model import Config, PoolConfig
from orchd.engines.adapter import Adapter
from orchd.errors import ConfigurationError, HostError
from orchd.runner.allowed import CPU
from orchd.runner.devices import DeviceMonitor
from orchd.runner.executable import find_executable
from orchd.runner.footprint import Footprint, format_gib
from orchd.runner.host_memory import read_host_memory
from orchd.runner.learned import Learned, footprints_file
from orchd.runner.nvml import NvmlReader
from orchd.runner.placement import (
    Machine,
    Needs,
    NoFit,
    Placed,
    ReplicaPlan,
    Reservation,
    decide_placement,
    plan_replicas,
)
from orchd.runner.reckoner import Reckoner
from orchd.runner.snapshot import NoReading, Reading
from orchd.runner.status import DeviceStatus, describe_devices

_PATIENCE_S = 30.0
"""A driver that nobody uses wakes every card first, which takes seconds for each."""


@dataclass(frozen=True, slots=True)
class ReplicaForecast:
    """What one replica needs and where it would go; ``reason`` says why it would not start."""

    replica_id: str
    device: str | None
    need_bytes: int | None
    """None where its model cannot be read."""
    reckoning: tuple[str, ...]
    reason: str | None


@dataclass(frozen=True, slots=True)
class PoolForecast:
    """All replicas of one pool."""

    pool: PoolConfig
    replicas: tuple[ReplicaForecast, ...]


@dataclass(frozen=True, slots=True)
class Forecast:
    """The whole answer."""

    devices: tuple[DeviceStatus, ...]
    devices_reason: str | None
    pools: tuple[PoolForecast, ...]

    @property
    def is_good(self) -> bool:
        """Whether every replica would start."""
        return all(replica.reason is None for pool in self.pools for replica in pool.replicas)


def forecast(config: Config, adapters: Mapping[str, Adapter]) -> Forecast:
    """Look at the machine and place every replica of the configuration on it."""
    return asyncio.run(_forecast(config, adapters, NvmlReader().read))


async def _forecast(
    config: Config, adapters: Mapping[str, Adapter], read_gpus: Callable[[], Reading | NoReading]
) -> Forecast:
    monitor = DeviceMonitor(read_gpus, answer_timeout_s=_PATIENCE_S)
    reckoner = Reckoner(adapters, Learned(footprints_file(os.environ)))
    monitor.start()
    try:
        snapshot = await monitor.fresh()
        machine = Machine(snapshot, read_host_memory())
        pools = []
        for pool in config.pools:
            problems, needs = await _find_problems(pool, adapters[pool.engine], reckoner)
            placed = _Placing(pool, needs, tuple(problems), machine)
            pools.append(PoolForecast(pool, tuple(placed.each())))
            machine = placed.machine
    finally:
        await monitor.stop()
    return Forecast(
        describe_devices(snapshot, {}, machine.reservations), snapshot.reason, tuple(pools)
    )


async def _find_problems(
    pool: PoolConfig, adapter: Adapter, reckoner: Reckoner
) -> tuple[list[str], Needs | None]:
    """What stands against a pool wherever it is placed, and its needs if they can be known."""
    problems: list[str] = []
    needs: Needs | None = None
    try:
        find_executable(adapter.executables(pool))
    except HostError as error:
        problems.append(str(error))
    try:
        needs = await reckoner.needs(pool)
    except HostError as error:
        problems.append(str(error))
    return problems, needs


class _Placing:
    """Places the replicas of one pool after those before it, as ``machine`` then shows."""

    def __init__(
        self,
        pool: PoolConfig,
        needs: Needs | None,
        problems: tuple[str, ...],
        machine: Machine,
    ) -> None:
        self.machine = machine
        self._needs = needs
        self._problems = problems
        self._plans = plan_replicas(pool, machine.snapshot) or (
            # None of its devices is there: the one that would be tells so.
            ReplicaPlan(f"{pool.id}-0", pool.devices),
        )

    def each(self) -> Iterator[ReplicaForecast]:
        for plan in self._plans:
            yield self._place(plan)

    def _place(self, plan: ReplicaPlan) -> ReplicaForecast:
        needs = self._needs
        if needs is None:
            return ReplicaForecast(plan.replica_id, None, None, (), "; ".join(self._problems))
        problems = list(self._problems)
        device = CPU if plan.devices == (CPU,) else ""
        need_bytes = needs.of(device).need_bytes
        outcome = decide_placement(plan.devices, needs, self.machine)
        match outcome:
            case Placed():
                device, need_bytes = outcome.device, outcome.need_bytes
                held = Reservation(plan.replica_id, device, need_bytes)
                reservations = (*self.machine.reservations, held)
                self.machine = replace(self.machine, reservations=reservations)
            case NoFit(reason):
                problems.append(reason)
        return ReplicaForecast(
            plan.replica_id,
            None if problems else device,
            need_bytes,
            _list_reckoning(needs.of(device)),
            "; ".join(problems) or None,
        )


def _list_reckoning(footprint: Footprint) -> tuple[str, ...]:
    items = tuple(f"{item.what} {format_gib(item.size_bytes)}" for item in footprint.items)
    return items or (footprint.reckoning,)


# -- telling it --------------------------------------------------------------------------------


def write_json(forecast: Forecast, out: TextIO) -> None:
    """For programs: exactly the keys ``devices`` and ``pools``."""
    pools = [
        {"pool_id": each.pool.id, "replicas": [_describe(replica) for replica in each.replicas]}
        for each in forecast.pools
    ]
    _dump({"devices": [asdict(device) for device in forecast.devices], "pools": pools}, out)


def _describe(replica: ReplicaForecast) -> dict[str, Any]:
    return {
        "device": replica.device,
        "need_bytes": replica.need_bytes,
        "reckoning": replica.reckoning,
        "reason": replica.reason,
    }


def write_faults_as_json(error: ConfigurationError, out: TextIO) -> None:
    """For programs: every fault of a configuration that is not valid."""
    faults = [
        {"file": error.source, "path": fault.path, "problem": fault.problem}
        for fault in error.faults
    ]
    _dump({"faults": faults}, out)


def _dump(value: object, out: TextIO) -> None:
    json.dump(value, out, indent=2)
    out.write("\n")


def write_text(forecast: Forecast, out: TextIO) -> None:
    """For people."""
    lines = ["Devices"]
    lines += [f"  {_show_device(device)}" for device in forecast.devices]
    if forecast.devices_reason is not None or not forecast.devices:
        lines.append(f"  {forecast.devices_reason or 'no NVIDIA GPU'}")
    names = {device.device: f"GPU {device.index} ({device.name})" for device in forecast.devices}
    for each in forecast.pools:
        lines += ["", f"Pool {each.pool.id}: {each.pool.model}"]
        for replica in each.replicas:
            lines += _show_replica(replica, names)
    lines += ["", "All fits." if forecast.is_good else "Not all fits."]
    out.write("\n".join(lines) + "\n")


def _show_device(device: DeviceStatus) -> str:
    words = [f"GPU {device.index}", device.name or "not known", device.device or "UUID not known"]
    if device.free_bytes is not None and device.total_bytes is not None:
        free, total = format_gib(device.free_bytes), format_gib(device.total_bytes)
        words.append(f"{free} free of {total}")
    if device.reason is not None:
        words.append(device.reason)
    return "  ".join(words)


def _show_replica(replica: ReplicaForecast, names: Mapping[str | None, str]) -> Iterator[str]:
    if replica.reason is not None:
        yield f"  {replica.replica_id}  would not start: {replica.reason}"
        return
    where = "the CPU" if replica.device == CPU else names.get(replica.device, replica.device)
    yield f"  {replica.replica_id}  would go to {where}"
    assert replica.need_bytes is not None
    yield f"    needs {format_gib(replica.need_bytes)}: {'; '.join(replica.reckoning)}"

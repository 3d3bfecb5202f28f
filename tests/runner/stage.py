"""Replicas on the fake engine, and all that is heard of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from orchd.config.model import Config, PoolConfig
from orchd.engines.adapter import Endpoint
from orchd.engines.llamacpp import LlamaCpp
from orchd.runner.footprint import Footprint
from orchd.runner.learned import Learned
from orchd.runner.lifecycle import State
from orchd.runner.ports import PORTS
from orchd.runner.reckoner import Reckoner
from orchd.runner.restart import RestartPolicy, Timing
from orchd.runner.snapshot import NoReading, Reading
from orchd.runner.status import PoolStatus, ReplicaStatus
from orchd.runner.supervisor import Supervisor
from tests.fakes.engines import (
    count_descriptors,
    install_engine,
    list_children,
    list_session,
    write_model,
)
from tests.runner.pools import make_pool

QUICK = Timing(RestartPolicy(first_delay_s=0.02, longest_delay_s=0.1), stop_grace_s=5.0)
PATIENT = Timing(RestartPolicy(first_delay_s=600, longest_delay_s=600), stop_grace_s=5.0)

STOP_TIMEOUT_S = 15.0


async def until(is_so: Callable[[], bool]) -> None:
    """For what nobody tells: asked again until it is so, or the scenario's time is up."""
    while not is_so():  # noqa: ASYNC110
        await asyncio.sleep(0.002)


SAMPLE_INTERVAL_S = 0.02
ReadGpus = Callable[[], Reading | NoReading]


def see_no_gpu() -> Reading:
    return ()


class RememberingReckoner(Reckoner):
    """Keeps what it is told was measured."""

    def __init__(self, answer_timeout_s: float = 10.0) -> None:
        super().__init__({"llamacpp": LlamaCpp()}, Learned(None), answer_timeout_s)
        self.measured: list[tuple[Footprint, int]] = []

    def learn(self, footprint: Footprint, took_bytes: int) -> None:
        self.measured.append((footprint, took_bytes))


class IdleGate:
    """A serving side that remembers, and whose replicas are done with their task at once."""

    def __init__(self) -> None:
        self.opened: list[Endpoint] = []
        self.closed: list[str] = []
        self.tasks = ("its task",)

    def open_slots(self, config: PoolConfig, endpoint: Endpoint) -> None:
        self.opened.append(endpoint)

    async def retire_slots(self, pool_id: str, replica_id: str) -> None:
        pass

    def close_slots(self, pool_id: str, replica_id: str) -> tuple[str, ...]:
        self.closed.append(replica_id)
        return self.tasks


class Stage:
    """A supervisor of one pool, at times beside others, and a gate that remembers."""

    def __init__(
        self,
        pool: PoolConfig,
        others: tuple[PoolConfig, ...],
        timing: Timing,
        read_gpus: ReadGpus,
        reckoner: Reckoner,
    ) -> None:
        self.pool = pool
        self.open: dict[str, Endpoint] = {}
        self.opened = 0
        self.models: dict[str, str] = {}
        """By replica, as it was opened last."""
        self.retired: dict[str, asyncio.Future[None]] = {}
        self._broken: list[asyncio.Future[None]] = []
        """Of those that are closed with tasks that have still to hear of it."""
        self.is_busy = False
        """Whoever is retired has tasks to finish first."""
        self._held: set[str] = set()
        """Pools."""
        self.tasks: tuple[str, ...] = ()
        """What its replicas have at their end."""
        config = Config(pools=(pool, *others))
        self.supervisor = Supervisor(
            *(config, {"llamacpp": LlamaCpp()}, self, read_gpus, reckoner, timing),
            sample_interval_s=SAMPLE_INTERVAL_S,
        )

    # -- the serving side ------------------------------------------------------------------------

    def open_slots(self, config: PoolConfig, endpoint: Endpoint) -> None:
        own = {"model": config.model, "vram_mib": config.vram_mib, "sha256": config.sha256}
        assert config == replace(self.pool, id=config.id, **own)  # type: ignore[arg-type]
        assert endpoint.replica_id not in self.open, "opened twice"
        assert endpoint.port in PORTS
        self.open[endpoint.replica_id] = endpoint
        self.models[endpoint.replica_id] = config.model
        self.opened += 1

    def retire_slots(self, pool_id: str, replica_id: str) -> asyncio.Future[None]:
        assert replica_id in self.open and replica_id not in self.retired, "retired twice"
        idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.retired[replica_id] = idle
        if not self.is_busy:
            idle.set_result(None)
        return idle

    def close_slots(self, pool_id: str, replica_id: str) -> tuple[str, ...]:
        del self.open[replica_id]
        if (idle := self.retired.pop(replica_id, None)) is not None:
            self._broken.append(idle)
        return self.tasks

    def hold(self, pool_id: str) -> None:
        assert pool_id not in self._held, "held twice"
        self._held.add(pool_id)

    def resume(self, pool_id: str) -> None:
        self._held.discard(pool_id)

    def finish_tasks(self) -> None:
        """Whoever was retired has no task any more."""
        self.is_busy = False
        for idle in (*self.retired.values(), *self._broken):
            if not idle.done():
                idle.set_result(None)

    # -- how it stands ---------------------------------------------------------------------------

    def is_held(self) -> bool:
        """True while it admits without replicas."""
        return self.pool.id in self._held

    @property
    def serving(self) -> list[str]:
        """The models of the replicas that are given tasks."""
        return [self.models[name] for name in self.open if name not in self.retired]

    @property
    def status(self) -> PoolStatus:
        return self.supervisor.pools()[0]

    def statuses(self) -> tuple[ReplicaStatus, ...]:
        return tuple(self.supervisor.statuses(self.pool.id))

    @property
    def only(self) -> ReplicaStatus:
        (status,) = self.statuses()
        return status

    async def reach(self, state: State) -> None:
        await until(lambda: all(status.state is state for status in self.statuses()))

    def kill_engine(self) -> None:
        assert self.only.pid is not None
        self.kill_all()

    def kill_all(self) -> None:
        for status in self.statuses():
            if status.pid is not None:
                os.kill(status.pid, signal.SIGKILL)


def kill_sessions(leaders: set[int]) -> None:
    """What a test that failed has left; nothing, where none did."""
    for leader in leaders:
        for pid in list_session(leader):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


async def open_reserve() -> None:
    """Let libuv open the one descriptor that it keeps for itself from its first socket on."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    server.close()
    await server.wait_closed()


def is_searching() -> bool:
    """True while a search for a port's holder goes on, though nobody may wait for it any more."""
    return any(thread.name == "find a listener" for thread in threading.enumerate())


@contextlib.asynccontextmanager
async def staged(
    folder: Path,
    timing: Timing = QUICK,
    *,
    read_gpus: ReadGpus = see_no_gpu,
    reckoner: Reckoner | None = None,
    pool: PoolConfig | None = None,
    others: tuple[PoolConfig, ...] = (),
    load_stall_s: float = 30.0,
    **faults: object,
) -> AsyncIterator[Stage]:
    """A started pool; at the end it is stopped, and nothing may be left of it."""
    if pool is None:
        pool = make_pool(
            model=write_model(folder),
            binary=install_engine(folder),
            load_stall_s=load_stall_s,
            env={f"FAKE_{name.upper()}": str(value) for name, value in faults.items()},
        )
    await open_reserve()
    await until(lambda: not is_searching())
    descriptors, children = count_descriptors(), list_children()
    stage = Stage(pool, others, timing, read_gpus, reckoner or RememberingReckoner())
    await stage.supervisor.start()
    try:
        yield stage
    finally:
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await stage.supervisor.stop()
        finally:
            kill_sessions(set(list_children()) - set(children))
    assert stage.open == {}
    assert {status.state for status in stage.statuses()} <= {State.DOWN}
    assert list_children() == children
    await until(lambda: not is_searching())
    assert count_descriptors() == descriptors
    assert stage.supervisor.holds_nothing

"""The house behind the handlers, with tasks that a test made and nothing that runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from orchd.api import wire
from orchd.api.context import Context, GpuView, Meters
from orchd.config.model import Config, PoolConfig, TasksConfig
from orchd.engines.adapter import Generation
from orchd.engines.registry import ADAPTERS
from orchd.metrics.collector import Collector
from orchd.metrics.cpu_watch import CpuUse
from orchd.metrics.registry import Registry
from orchd.reload_outcome import ReloadOutcome
from orchd.runner.exit_status import ExitStatus
from orchd.runner.incident import Incident
from orchd.serving.dispatch import Slots
from orchd.serving.entry import Entry, Reader
from orchd.serving.event_log import EventLog
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.service import Service
from orchd.serving.task import Admitted, Priority, Rejected, Task, TaskEvent, TaskSpec
from orchd.serving.world import Outage, Runner

TASK_ID = "123e4567-e89b-12d3-a456-426614174000"


DEATH = Incident(
    ended_at=1_700_000_000.25,
    replica_id="chat-0",
    device="GPU-0",
    pid=4242,
    cause="was ended by SIGKILL: it said nothing",
    exit_status=ExitStatus(None, "SIGKILL"),
    last_lines=("loading", "bye"),
    memory_before_bytes=900,
    ready_s=12.3456,
    tasks=(TASK_ID,),
)
"""An engine's, with something for each key that is shown of it."""


@dataclass
class FakeReplica:
    """A replica that is ready; ``reason`` says why not."""

    reason: str | None = None
    state: str = "ready"
    restarts: int = 0
    has_failed: bool = False
    replica_id: str = "chat-0"
    model: str = "/models/a.gguf"
    is_active: bool = True
    device: str | None = "cpu"
    pid: int | None = 4242
    engine_version: str | None = "b1"


@dataclass(frozen=True)
class FakeReload:
    """A reload under way."""

    new_model_ref: str = "/models/b.gguf"
    strategy: str | None = "side-by-side"
    step: str = "loads"
    so_far_s: float = 1.2345


@dataclass(frozen=True)
class FakePool:
    """A pool, as its supervisor shows it."""

    config: PoolConfig
    replicas: Sequence[FakeReplica] = ()
    incidents: Sequence[Incident] = ()
    retired: Sequence[str] = ()
    reload: FakeReload | None = None


@dataclass
class FakeDevice:
    """A GPU."""

    device: str | None = "GPU-0"
    index: int = 0
    name: str | None = "NVIDIA Card"
    total_bytes: int | None = 8
    free_bytes: int | None = 7
    reserved_bytes: int = 3
    utilization: int | None = 50
    reason: str | None = None


class FakeService:
    """Answers every submission with ``outcome``."""

    def __init__(self) -> None:
        self.outcome: Admitted | Rejected | Exception = Admitted(TASK_ID, 0, 0, 0)
        self.submitted: list[TaskRequest] = []
        self.cancelled: list[Entry] = []
        self.entries: dict[str, Entry] = {}
        self.is_stopping = False
        self.held = False

    def add(self, task_id: str, *events: TaskEvent) -> Entry:
        generation = Generation(prompt="a")
        task = Task(TaskSpec(task_id, "chat", Priority.INTERACTIVE, None, generation), 0)
        log = EventLog(wire.encode_event)
        entry = self.entries[task_id] = Entry(task, log, lambda: "waiting in the queue")
        for event in events:
            log.append(event)
        return entry

    def submit(self, request: TaskRequest) -> Admitted | Rejected:
        self.submitted.append(request)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def find(self, task_id: str) -> Entry | None:
        return self.entries.get(task_id)

    def open_reader(self, entry: Entry, cursor: int) -> Reader:
        return Reader(entry, cursor, lambda: None)

    def cancel(self, entry: Entry) -> None:
        self.cancelled.append(entry)

    def is_held(self, pool_id: str) -> bool:
        return self.held

    def queue_depths(self, pool_id: str) -> dict[Priority, int]:
        return {Priority.INTERACTIVE: 2, Priority.BATCH: 1}

    def slots(self, pool_id: str, replica_id: str) -> Slots | None:
        return None


class FakeReloads:
    """Each reload is over when a test says so, or at once with the ``outcome`` that it has set."""

    def __init__(self, outcome: ReloadOutcome | None = None) -> None:
        self.outcome = outcome
        self.asked: list[tuple[str, str | None]] = []
        self.futures: list[asyncio.Future[ReloadOutcome]] = []

    def __call__(self, pool_id: str, new_model_ref: str | None) -> asyncio.Future[ReloadOutcome]:
        self.asked.append((pool_id, new_model_ref))
        future: asyncio.Future[ReloadOutcome] = asyncio.get_running_loop().create_future()
        self.futures.append(future)
        if self.outcome is not None:
            future.set_result(self.outcome)
        return future


def build_meters(
    *, gpus: Mapping[str, GpuView] | None = None, processes: Mapping[int, CpuUse] | None = None
) -> Meters:
    """Counts that begin at 0 for the replica ``chat-0``, and these GPUs and processes."""
    registry = Registry(("llamacpp",), lambda pool_id: ("chat-0",))
    return Meters(registry, Collector(registry), (gpus or {}).get, (processes or {}).get)


def build_context(
    service: FakeService,
    *replicas: FakeReplica,
    incidents: tuple[Incident, ...] = (),
    devices: tuple[FakeDevice, ...] = (),
    devices_reason: str | None = None,
    meters: Meters | None = None,
    retired: tuple[str, ...] = (),
    under_way: FakeReload | None = None,
    reload: Callable[[str, str | None], asyncio.Future[ReloadOutcome]] | None = None,
) -> Context:
    """One pool named ``chat``, with these replicas."""
    config = PoolConfig(id="chat", engine="llamacpp", model="/models/a.gguf")
    pool = FakePool(config, replicas, incidents, retired, under_way)
    return Context(
        service=cast(Service, service),
        pools=lambda: (pool,),
        devices=lambda: devices,
        devices_reason=lambda: devices_reason,
        meters=meters or build_meters(),
        reload=reload or FakeReloads(),
    )


def build_served(pool: PoolConfig) -> tuple[Service, Context]:
    """A real service of one pool, and the house around it; its slots are the test's to open."""
    runner = Runner(
        *(lambda pool_id: Outage("", None), lambda replica_id: 0),
        *(lambda pool_id: pool, lambda *report: None),
    )
    config = Config(pools=(pool,), tasks=TasksConfig())
    service = Service(config, ADAPTERS, wire.encode_event, runner)
    nothing: tuple[()] = ()
    reloads = FakeReloads()
    context = Context(
        service, lambda: nothing, lambda: nothing, lambda: None, build_meters(), reloads
    )
    return service, context

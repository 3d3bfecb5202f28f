"""A service with one pool, and what a test asks of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, cast

from orchd.config.model import Config, PoolConfig, TasksConfig
from orchd.engines.adapter import Adapter, Endpoint, Generation
from orchd.engines.registry import ADAPTERS
from orchd.serving.aftermath import Patience
from orchd.serving.entry import Entry, Reader
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.service import Service
from orchd.serving.tally import Tally
from orchd.serving.task import Admitted, Failed, Priority, Rejected, State, TaskEvent, Token
from orchd.serving.world import Outage, Runner
from tests.fakes.loop import ClockedLoop
from tests.serving.samples import make_pool

PROMPT = Generation(prompt="Once")
NEVER_S = 1000.0


class Listening:
    """A reader that keeps what it reads."""

    def __init__(self, rig: Rig, reader: Reader) -> None:
        self.events: list[TaskEvent] = []
        self._rig = rig
        self._reader = reader
        self._woken = asyncio.Event()
        reader.attach(self._woken.set)
        self._pull()

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Token))

    async def until(self, is_there: Callable[[Listening], bool]) -> None:
        """Read on until that is so."""
        while not is_there(self):
            await self._woken.wait()
            self._woken.clear()
            self._pull()

    async def until_tokens(self, count: int) -> None:
        await self.until(lambda it: sum(isinstance(e, Token) for e in it.events) >= count)

    async def to_the_end(self) -> list[TaskEvent]:
        await self.until(lambda it: it._reader.is_finished)
        self.leave()
        return self.events

    def leave(self) -> None:
        self._reader.detach()

    def _pull(self) -> None:
        while frames := self._reader.pull(1):
            self.events += self._rig.decode(frames)


class Rig:
    """``async with`` gives a service that is stopped in order at the end."""

    def __init__(
        self,
        pool: PoolConfig | None = None,
        retain_s: float = NEVER_S,
        abandon_after_s: float = NEVER_S,
        settle_s: float = NEVER_S,
        free_within_s: float = NEVER_S,
        answer_s: float = NEVER_S,
        adapters: Mapping[str, Adapter] = ADAPTERS,
        on_encode: Callable[[TaskEvent], None] = lambda event: None,
        tally: Tally | None = None,
    ) -> None:
        self.pool = pool or make_pool()
        tasks = TasksConfig(retain_s=retain_s, abandon_after_s=abandon_after_s)
        self._config = Config(pools=(self.pool,), tasks=tasks)
        self._patience = Patience(settle_s, free_within_s, answer_s)
        self._adapters = adapters
        self.stuck: list[tuple[str, str, str]] = []
        self.fail_to_report: Exception | None = None
        self._on_encode = on_encode
        self._tally = tally
        self._encoded: list[tuple[int, TaskEvent]] = []

    async def __aenter__(self) -> Self:
        self.outage = Outage("loading 3 s", None)
        runner = Runner(
            lambda pool_id: self.outage, lambda replica_id: 0, self._configured, self._report_stuck
        )
        self.service = Service(
            *(self._config, self._adapters, self._encode, runner, self._patience, self._tally)
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.service.stop_admission()
        await self.service.end_tasks()

    def take_clock(self) -> ClockedLoop:
        """From now on the time of the service passes only as the test says."""
        clock = ClockedLoop(asyncio.get_running_loop())
        loop = cast(asyncio.AbstractEventLoop, clock)
        self.service._loop = self.service._abandonment._loop = loop
        return clock

    def _configured(self, pool_id: str) -> PoolConfig:
        assert pool_id == self.pool.id
        return self.pool

    def _report_stuck(self, *report: str) -> None:
        if self.fail_to_report is not None:
            raise self.fail_to_report
        pool_id, replica_id, reason = report
        self.stuck.append((pool_id, replica_id, reason))

    def _encode(self, number: int, event: TaskEvent) -> bytes:
        self._on_encode(event)
        self._encoded.append((number, event))
        return b"%d\n" % (len(self._encoded) - 1)

    def decode(self, frames: bytes) -> list[TaskEvent]:
        return [self._encoded[int(line)][1] for line in frames.splitlines()]

    # -- replicas --------------------------------------------------------------------------------

    def open(self, endpoint: Endpoint, slots: int = 4) -> None:
        self.service.open_slots(replace(self.pool, slots=slots), endpoint)

    def close(self, replica_id: str = "r0") -> tuple[str, ...]:
        return self.service.close_slots(self.pool.id, replica_id)

    def busy(self, replica_id: str = "r0") -> int:
        slots = self.service.slots(self.pool.id, replica_id)
        assert slots is not None
        return slots.busy

    # -- tasks -----------------------------------------------------------------------------------

    def submit(self, generation: Generation = PROMPT, **fields: Any) -> Entry:
        """Admit a task; not for tests of a refusal."""
        outcome = self.service.submit(TaskRequest(generation, **fields))
        assert isinstance(outcome, Admitted), outcome
        return self.find(outcome)

    def submit_batch(self) -> Entry:
        return self.submit(priority=Priority.BATCH)

    def refuse(self, generation: Generation = PROMPT, **fields: Any) -> Rejected:
        """Have a task refused."""
        outcome = self.service.submit(TaskRequest(generation, **fields))
        assert isinstance(outcome, Rejected), outcome
        return outcome

    def find(self, admitted: Admitted) -> Entry:
        entry = self.service.find(admitted.task_id)
        assert entry is not None
        return entry

    def listen(self, entry: Entry, cursor: int = 0) -> Listening:
        return Listening(self, self.service.open_reader(entry, cursor))

    async def story(self, entry: Entry) -> list[TaskEvent]:
        """All events of a task, to its end."""
        return await self.listen(entry).to_the_end()

    def logged(self, entry: Entry) -> list[TaskEvent]:
        """All events so far."""
        return self.decode(entry.log.read(0, 10**9)[0])

    async def until_free(self, replica_id: str = "r0") -> None:
        """Wait for the runs that still hold a slot of it."""
        while self.busy(replica_id):
            await asyncio.wait(self.service._runs.values(), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)

    async def until_forgotten(self, task_id: str) -> None:
        while self.service.find(task_id) is not None:  # noqa: ASYNC110, nothing tells of it
            await asyncio.sleep(0.002)


def fails(event: TaskEvent) -> str:
    """The code of an error event."""
    assert isinstance(event, Failed), event
    return event.code


def states(*entries: Entry) -> list[State]:
    return [entry.task.state for entry in entries]

"""One pool's tasks from admission to their terminal event: every decision, and no IO.

The shell calls one method for what has happened and then does what ``take_todo`` lists: tasks that
have ended, tasks to run, streams to close. Whatever frees a slot or brings a task dispatches within
the same call, so a free slot and a waiting task are never left beside each other. (A cancelled task
frees no slot: its release does.)

A grant's life: given by dispatch; its task runs on it until the task ends, loses it or is cut; and
the slot stays busy until ``release``, which comes when the engine is seen to be done with it.

Invariants: every task that was admitted gets exactly one terminal event, through ``_end``; what is
said on a grant whose task does not run on it any more (the engine stops a loop turn later) is
dropped; a task that was refused left no trace.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Done, PromptProgress
from orchd.errors import Code
from orchd.serving.account import Accounts
from orchd.serving.dispatch import Dispatcher, Grant, Slots
from orchd.serving.entry import Entry
from orchd.serving.event_log import EventLog
from orchd.serving.pace import UNMEASURED_BACKOFF_S, Pace
from orchd.serving.task import (
    Admitted,
    Broken,
    Doubt,
    Ended,
    Failed,
    Outcome,
    Priority,
    Rejected,
    State,
    Step,
    Task,
    TaskSpec,
    describe_failure,
)
from orchd.serving.todo import Todo
from orchd.serving.world import World

_STOPPING = "the daemon is stopping"


class Core:
    """One pool, for as long as the daemon lives."""

    def __init__(self, config: PoolConfig, world: World) -> None:
        self._config = config
        self._world = world
        bounds = {
            Priority.INTERACTIVE: config.queue.interactive,
            Priority.BATCH: config.queue.batch,
        }
        self._dispatcher = Dispatcher(bounds, world.spare_vram_bytes)
        self._queue = self._dispatcher.queue
        self._pace = Pace()
        self._accounts = Accounts(world.now_s)
        self._live: dict[str, Entry] = {}
        """Every task without its terminal event, by id."""
        self._running: dict[Grant, Entry] = {}
        self._granted_s: dict[Grant, float] = {}
        """When each slot that is not released yet was given."""
        self._is_stopping = False
        self.is_held = False
        """It has no slots for a while, by intent, and goes on admitting."""
        self._todo = Todo()

    # -- what a client asks ------------------------------------------------------------------

    def admit(self, spec: TaskSpec) -> Entry | Rejected:
        """Take a task in, or say why not."""
        if (rejected := self._check(spec)) is not None:
            return rejected
        task = Task(spec, self._queue.position(spec.priority))
        entry = Entry(task, EventLog(self._world.encode), self._explain_queue)
        self._live[spec.task_id] = entry
        self._accounts.open(task)
        self._queue.push(task)
        self._dispatch()
        if task.state is State.QUEUED:
            start_s = self._pace.predict_start_s(
                task.queue_position, self._dispatcher.open_slots_total, self._held_s()
            )
            task.predicted_start_ms = None if start_s is None else round(start_s * 1000)
        return entry

    def describe_admission(self, entry: Entry) -> Admitted:
        """What the client is told of a task that was just admitted."""
        task, spec = entry.task, entry.task.spec
        has_room = self._queue.has_room(spec.priority)
        backoff_ms = 0 if has_room else math.ceil(self._backoff_s(spec.priority) * 1000)
        return Admitted(spec.task_id, task.queue_position, task.predicted_start_ms, backoff_ms)

    def cancel(self, entry: Entry, reason: str) -> None:
        """End a task wherever it stands; nothing happens to one that has ended."""
        if not entry.task.has_ended:
            self._end_early(entry, Failed(Code.CANCELLED, reason, self._config.engine))

    # -- what its run tells of a grant -------------------------------------------------------

    def start(self, grant: Grant) -> None:
        """The engine has taken the task."""
        if (entry := self._running.get(grant)) is not None:
            entry.log_start()

    def note_prompt(self, grant: Grant, progress: PromptProgress) -> None:
        """The engine has read so much of the prompt."""
        if (entry := self._running.get(grant)) is not None:
            entry.note_prompt(progress)

    def write(self, grant: Grant, text: str) -> None:
        """The engine has written a piece of the answer."""
        if (entry := self._running.get(grant)) is not None:
            self._accounts.note_text(entry.task)
            grant.slots.texts += 1
            entry.log_text(text)

    def end(self, grant: Grant, outcome: Outcome, service_s: float) -> None:
        """The run is over after that time; one that is doubted for it is granted nothing."""
        grant.slots.note_outcome(outcome)
        if isinstance(outcome, Doubt):
            self._dispatcher.doubt(grant, outcome)
        if (entry := self._running.get(grant)) is not None:
            self._conclude(entry, grant, outcome, service_s)
        self._dispatch()

    def release(self, grant: Grant) -> None:
        """The engine is done with the slot, or is gone."""
        assert grant not in self._running, "a slot was given back under its task"
        held_s = self._world.now_s() - self._granted_s.pop(grant)
        if self.why_doubted(grant) is None:
            self._pace.observe(held_s)
        self._dispatcher.release(grant)
        self._dispatch()

    # -- what the supervisor tells -----------------------------------------------------------

    def open_slots(self, replica_id: str, total: int) -> None:
        """A replica is ready for that many tasks at once."""
        self._dispatcher.open_slots(replica_id, total)
        self._dispatch()

    def retire_slots(self, replica_id: str) -> Slots:
        """A replica is granted no more tasks; it goes on with those that it has."""
        return self._dispatcher.retire_slots(replica_id)

    def hold(self) -> None:
        """The slots are about to go and others to come: admit on, if that was so until now."""
        self.is_held = bool(self._dispatcher.open_slots_total)

    def resume(self) -> None:
        """There are slots again, or none will come."""
        self.is_held = False

    def close_slots(self, replica_id: str) -> tuple[str, ...]:
        """A replica takes no more tasks; the streams that it had end by themselves.

        Returns the ids of those that it has and of those that it has just failed, as granted.
        """
        slots = self._dispatcher.slots(replica_id)
        self._dispatcher.close_slots(replica_id)
        return tuple(
            grant.task.spec.task_id
            for grant in self._granted_s
            if grant.slots is slots and (grant in self._running or self.why_doubted(grant))
        )

    # -- the end of the daemon ---------------------------------------------------------------

    def stop_admission(self) -> None:
        """Admit nothing from now on, and end what still waits: it would never be served."""
        self._is_stopping = True
        self._end_all(entry for entry in self._live.values() if entry.task.state is State.QUEUED)

    def end_tasks(self) -> None:
        """End whatever has not ended."""
        self._end_all(self._live.values())

    # -- how it stands -----------------------------------------------------------------------

    def take_todo(self) -> Todo:
        """What the steps since the last call have left to do."""
        todo, self._todo = self._todo, Todo()
        return todo

    def depth(self, priority: Priority) -> int:
        """How many tasks of that priority wait."""
        return self._queue.depth(priority)

    def slots(self, replica_id: str) -> Slots | None:
        """The replica's slots; None while it takes no tasks."""
        return self._dispatcher.slots(replica_id)

    def count_started(self, slots: Slots) -> int:
        """How many tasks the engine has a reason to be at work on."""
        return sum(
            grant.slots is slots and entry.task.state is State.STARTED
            for grant, entry in self._running.items()
        )

    def why_doubted(self, grant: Grant) -> Doubt | None:
        """What its replica did to the task, while it is granted nothing for that."""
        return self._dispatcher.doubts.get(grant)

    def is_running(self, grant: Grant) -> bool:
        """True while its task runs on it."""
        return grant in self._running

    # -- inside --------------------------------------------------------------------------------

    def _check(self, spec: TaskSpec) -> Rejected | None:
        engine, pool_id = self._config.engine, self._config.id
        if self._is_stopping:
            return Rejected(Code.POOL_UNAVAILABLE, _STOPPING, engine, UNMEASURED_BACKOFF_S)
        if not self._dispatcher.open_slots_total and not self.is_held:
            outage = self._world.explain()
            message, retry_s = f"pool {pool_id}: {outage.reason}", outage.retry_s
            backoff_s = UNMEASURED_BACKOFF_S if retry_s is None else retry_s
            return Rejected(Code.POOL_UNAVAILABLE, message, engine, backoff_s)
        if not self._queue.has_room(spec.priority, spec.size_bytes):
            message = f"pool {pool_id}: {self._queue.describe_full(spec.priority)}"
            backoff_s = self._backoff_s(spec.priority)
            return Rejected(Code.ADMISSION_REJECT, message, engine, backoff_s)
        return None

    def _backoff_s(self, priority: Priority) -> float:
        """When a place of that priority comes free, at the pace of late."""
        before = self._queue.starts_before_a_place(priority)
        slots = self._dispatcher.open_slots_total
        return self._pace.backoff_s(before, slots, self._held_s())

    def _held_s(self) -> list[float]:
        """How long each slot has been held so far; one whose replica broke says nothing."""
        now_s, doubts = self._world.now_s(), self._dispatcher.doubts
        return [
            now_s - since_s for grant, since_s in self._granted_s.items() if grant not in doubts
        ]

    def _explain_queue(self) -> str:
        if self._dispatcher.open_slots_total:
            return "waiting in the queue"
        return f"waiting in the queue; {self._world.explain().reason}"

    def _dispatch(self) -> None:
        for grant in self._dispatcher.dispatch():
            entry = self._live[grant.task.spec.task_id]
            entry.grant = grant
            self._running[grant] = entry
            self._granted_s[grant] = self._world.now_s()
            self._accounts.note_grant(grant.task, grant.slots.replica_id)
            self._todo.run.append(grant)

    def _conclude(self, entry: Entry, grant: Grant, outcome: Outcome, service_s: float) -> None:
        task = entry.task
        match outcome:
            case Done():
                decode_s = self._accounts.decode_s(task, service_s)
                self._end(entry, task.describe_end(outcome, decode_s))
            case Broken() if task.can_requeue and not self._is_stopping:
                self._let_go(entry)
                task.step(Step.REQUEUE)
                self._queue.put_back(task)
            case _:
                failed = describe_failure(outcome, grant.slots.replica_id, self._config.engine)
                self._end(entry, failed)

    def _end_all(self, entries: Iterable[Entry]) -> None:
        for entry in tuple(entries):
            failed = Failed(Code.POOL_UNAVAILABLE, _STOPPING, self._config.engine)
            self._end_early(entry, failed)

    def _end_early(self, entry: Entry, failed: Failed) -> None:
        """End a task that may wait, or hold a slot."""
        grant = entry.grant
        self._queue.remove(entry.task)
        self._end(entry, failed)
        if grant is not None:
            self._todo.cut.append(grant)

    def _end(self, entry: Entry, event: Ended | Failed) -> None:
        entry.log_end(event)
        self._todo.reports.append(self._accounts.close(entry.task, event))
        self._let_go(entry)
        del self._live[entry.task.spec.task_id]
        self._todo.ended.append(entry)
        entry.wake()

    def _let_go(self, entry: Entry) -> None:
        """Its task does not run on the grant any more; the slot is busy still."""
        if entry.grant is not None:
            del self._running[entry.grant]
            entry.grant = None

"""The shell around the serving core: submit, cancel, slots opened and closed.

Each of them is a synchronous call into the pure core followed by doing what it answered; between
reading and writing shared state there is no await. A granted task is run by one asyncio task,
``_serve``, which owns the grant and gives it back on every path.

Invariants: every task that was admitted gets exactly one terminal event, through ``_end``; no
token is logged after it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import uuid
from collections.abc import Callable, Mapping
from functools import partial

from orchd.config.model import Config
from orchd.engines.adapter import Adapter, Done, Endpoint, Refused
from orchd.errors import Code
from orchd.serving.dispatch import Grant, Slots
from orchd.serving.entry import Entry, Reader
from orchd.serving.event_log import Encoder, EventLog
from orchd.serving.pace import UNMEASURED_BACKOFF_S
from orchd.serving.pool import Pool, Replica
from orchd.serving.pool_choice import TaskRequest, decide_spec
from orchd.serving.register import Register
from orchd.serving.relay import Broken, Listener, relay
from orchd.serving.task import (
    Admitted,
    Ended,
    Failed,
    Priority,
    Rejected,
    State,
    Step,
    Task,
)

log = logging.getLogger(__name__)

SETTLE_S = 0.5
"""How long a replica that broke a stream is granted nothing, so that the news of its death comes
first: the socket's end and the process's end arrive in any order."""


class Service:
    """Every pool's tasks. ``explain`` tells why a pool cannot serve, in a sentence for the user."""

    def __init__(
        self,
        config: Config,
        adapters: Mapping[str, Adapter],
        encode: Encoder,
        explain: Callable[[str], str],
        settle_s: float = SETTLE_S,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._abandon_after_s = config.tasks.abandon_after_s
        self._encode = encode
        self._explain = explain
        self._settle_s = settle_s
        self._pools = {pool.id: Pool(pool, adapters[pool.engine]) for pool in config.pools}
        self._register = Register(config.tasks.retain_s, self._loop)
        self._runs: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    # -- what a client asks ------------------------------------------------------------------

    def submit(self, request: TaskRequest) -> Admitted | Rejected:
        """Admit a task, or say why not; a rejected one leaves no trace."""
        task_id = request.task_id or str(uuid.uuid4())
        spec = decide_spec(request, task_id, (pool.config for pool in self._pools.values()))
        if isinstance(spec, Rejected):
            return spec
        pool = self._pools[spec.pool_id]
        rejected = self._check_admission(pool, spec.task_id, spec.priority)
        if rejected is not None:
            return rejected
        queue = pool.dispatcher.queue
        task = Task(spec, queue.position(spec.priority))
        entry = Entry(task, EventLog(self._encode))
        self._register.add(entry)
        queue.push(task)
        self._dispatch(pool)
        if task.state is State.QUEUED:
            start_s = pool.pace.predict_start_s(
                task.queue_position, pool.dispatcher.open_slots_total
            )
            task.predicted_start_ms = None if start_s is None else round(start_s * 1000)
        self._watch_abandonment(entry)
        has_room = queue.has_room(spec.priority)
        backoff_ms = 0 if has_room else math.ceil(self._backoff_s(pool) * 1000)
        return Admitted(task_id, task.queue_position, task.predicted_start_ms, backoff_ms)

    def find(self, task_id: str) -> Entry | None:
        """The task, while it runs and for ``retain_s`` after its end."""
        return self._register.get(task_id)

    def open_reader(self, entry: Entry, cursor: int) -> Reader:
        """A reader of the task's events from number ``cursor`` on, up to the log's length."""
        assert 0 <= cursor <= len(entry.log), f"no event {cursor} in the log"
        return Reader(entry, cursor, lambda: self._watch_abandonment(entry))

    def cancel(self, entry: Entry, reason: str = "cancelled by the client") -> None:
        """End a task wherever it stands; nothing happens to one that has ended."""
        if entry.task.has_ended:
            return
        pool = self._pools[entry.task.spec.pool_id]
        pool.dispatcher.queue.remove(entry.task)
        self._end(entry, Failed(Code.CANCELLED, reason, pool.config.engine))
        if entry.run is not None:
            entry.run.cancel()
        self._dispatch(pool)

    # -- what the supervisor tells -------------------------------------------------------------

    def open_slots(self, pool_id: str, endpoint: Endpoint, slots: int) -> None:
        """A replica is ready and takes that many tasks at once."""
        pool = self._pools[pool_id]
        pool.dispatcher.open_slots(endpoint.replica_id, slots)
        pool.replicas[endpoint.replica_id] = Replica(endpoint, self._loop.create_future())
        self._dispatch(pool)

    def close_slots(self, pool_id: str, replica_id: str) -> None:
        """A replica takes no task any more; the streams it had end by themselves."""
        pool = self._pools[pool_id]
        pool.dispatcher.close_slots(replica_id)
        pool.replicas.pop(replica_id).closed.set_result(None)

    # -- what /health shows ----------------------------------------------------------------------

    def queue_depths(self, pool_id: str) -> dict[Priority, int]:
        """How many tasks wait, for each priority."""
        queue = self._pools[pool_id].dispatcher.queue
        return {priority: queue.depth(priority) for priority in Priority}

    def slots(self, pool_id: str, replica_id: str) -> Slots | None:
        """The replica's slots; None while it takes no tasks."""
        return self._pools[pool_id].dispatcher.slots(replica_id)

    # -- the end -----------------------------------------------------------------------------------

    def stop_admission(self) -> None:
        """Admit nothing from now on, and end what still waits: it would never be served."""
        self._is_stopping = True
        for entry in self._register.entries():
            if entry.task.state is State.QUEUED:
                self._pools[entry.task.spec.pool_id].dispatcher.queue.remove(entry.task)
                self._end(entry, self._stopping(entry))

    async def finish_tasks(self, grace_s: float) -> None:
        """Let running tasks finish for ``grace_s``; cancelling this cuts the grace short."""
        if self._runs:
            await asyncio.wait(self._runs, timeout=grace_s)

    async def end_tasks(self) -> None:
        """End what still runs; after this no task is open and no timer of ours is left."""
        for entry in self._register.entries():
            if not entry.task.has_ended:
                self._end(entry, self._stopping(entry))
        for run in self._runs:
            run.cancel()
        if self._runs:
            await asyncio.wait(self._runs)
        self._register.close()

    # -- inside ------------------------------------------------------------------------------------

    def _check_admission(self, pool: Pool, task_id: str, priority: Priority) -> Rejected | None:
        engine, queue = pool.config.engine, pool.dispatcher.queue
        if self._register.get(task_id) is not None:
            return Rejected(Code.CONFLICT, f"task_id {task_id} is known already", engine)
        if self._is_stopping:
            message = "the daemon is stopping"
            return Rejected(Code.POOL_UNAVAILABLE, message, engine, UNMEASURED_BACKOFF_S)
        if not pool.dispatcher.open_slots_total:
            message = f"pool {pool.config.id}: {self._explain(pool.config.id)}"
            return Rejected(Code.POOL_UNAVAILABLE, message, engine, self._backoff_s(pool))
        if not queue.has_room(priority):
            message = (
                f"{queue.bound(priority)} {priority} tasks wait in pool {pool.config.id} already,"
                " which is its bound"
            )
            return Rejected(Code.ADMISSION_REJECT, message, engine, self._backoff_s(pool))
        return None

    def _backoff_s(self, pool: Pool) -> float:
        return pool.pace.backoff_s(pool.dispatcher.open_slots_total)

    def _stopping(self, entry: Entry) -> Failed:
        engine = self._pools[entry.task.spec.pool_id].config.engine
        return Failed(Code.POOL_UNAVAILABLE, "the daemon is stopping", engine)

    def _dispatch(self, pool: Pool) -> None:
        for grant in pool.dispatcher.dispatch():
            entry = self._register.get(grant.task.spec.task_id)
            assert entry is not None, "a waiting task was forgotten"
            name = f"serve {grant.task.spec.task_id}"
            # Looked up here: at the run's first step the replica may be closed, or another one.
            replica = pool.replicas[grant.slots.replica_id]
            run = self._loop.create_task(self._serve(pool, entry, grant, replica), name=name)
            self._runs.add(run)
            # A callback, since a run that is cancelled before its first step runs no ``finally``.
            run.add_done_callback(partial(self._release, pool, entry, grant))
            entry.run = run

    def _release(self, pool: Pool, entry: Entry, grant: Grant, run: asyncio.Task[None]) -> None:
        self._runs.discard(run)
        if entry.run is run:
            entry.run = None  # it holds the frames it ended in, and they hold the entry
        pool.dispatcher.release(grant)
        self._dispatch(pool)

    async def _serve(self, pool: Pool, entry: Entry, grant: Grant, replica: Replica) -> None:
        """Run a granted task on its slot."""
        began_s = self._loop.time()
        try:
            outcome = await relay(
                pool.adapter,
                pool.config,
                replica.endpoint,
                entry.task.spec.generation,
                Listener(entry.log_start, entry.log_text),
            )
            match outcome:
                case Done():
                    service_s = self._loop.time() - began_s
                    pool.pace.observe(service_s)
                    self._end(entry, entry.task.describe_end(outcome, service_s))
                case Refused(message):
                    self._end(entry, Failed(Code.INVALID_PARAMS, message, pool.config.engine))
                case Broken(reason):
                    self._recover(pool, entry, grant, reason)
                    await asyncio.wait([replica.closed], timeout=self._settle_s)
        except Exception:
            log.exception("task failed inside the daemon task=%s", entry.task.spec.task_id)
            if not entry.task.has_ended:
                self._end(entry, Failed(Code.INTERNAL, "a bug in orchd", pool.config.engine))

    def _recover(self, pool: Pool, entry: Entry, grant: Grant, reason: str) -> None:
        """The replica broke under the task: again from the head of the queue, or the end."""
        task, replica_id = entry.task, grant.slots.replica_id
        pool.dispatcher.doubt(grant)
        log.warning("task=%s lost replica=%s: %s", task.spec.task_id, replica_id, reason)
        if task.can_requeue and not self._is_stopping:
            entry.run = None
            task.step(Step.REQUEUE)
            pool.dispatcher.queue.put_back(task)
            self._dispatch(pool)
        else:
            message = f"replica {replica_id} {reason}"
            self._end(entry, Failed(Code.WORKER_RESET, message, pool.config.engine))

    def _end(self, entry: Entry, event: Ended | Failed) -> None:
        entry.task.step(Step.END)
        entry.emit(event)
        self._watch_abandonment(entry)
        self._register.retire(entry)

    def _watch_abandonment(self, entry: Entry) -> None:
        """Start or stop the clock after which a task that nobody reads is cancelled."""
        if entry.abandonment is not None:
            entry.abandonment.cancel()
            entry.abandonment = None
        task = entry.task
        is_watched = task.spec.priority is Priority.INTERACTIVE and not task.has_ended
        if is_watched and not entry.has_readers:
            reason = f"nobody streamed it for {self._abandon_after_s:g} s"
            entry.abandonment = self._loop.call_later(
                self._abandon_after_s, self.cancel, entry, reason
            )

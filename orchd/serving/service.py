"""The shell around the serving core: it asks the core, and does what the core lists.

Each thing that happens is a synchronous call into a pool's core followed by ``_do``; between
reading and writing shared state there is no await. A granted slot has one owner all the time, the
asyncio task under its grant in ``_runs``: first the run that relays the engine's stream, then,
where the engine may be at work on still, the watch that sees its slot come free.

Invariants: a grant is released when its last owner is done, on every path; a task that has ended
has no clock.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Mapping
from functools import partial

from orchd.config.model import Config, PoolConfig
from orchd.engines.adapter import Adapter, Done, Endpoint, PromptProgress, Refused
from orchd.errors import Code
from orchd.serving.abandonment import Abandonment
from orchd.serving.aftermath import Patience, find_fault
from orchd.serving.core import Core
from orchd.serving.dispatch import Grant, Slots
from orchd.serving.entry import Entry, Reader
from orchd.serving.event_log import Encoder
from orchd.serving.pool import Pool, Replica
from orchd.serving.pool_choice import TaskRequest, decide_spec
from orchd.serving.progress import Progress
from orchd.serving.refusals import Refusals
from orchd.serving.register import Register
from orchd.serving.relay import Listener, relay
from orchd.serving.stall_watch import run_until_stall
from orchd.serving.tally import NoTally, Tally
from orchd.serving.task import Admitted, Broken, Bug, Priority, Rejected, Stalled
from orchd.serving.world import Runner, World

log = logging.getLogger(__name__)


class Service:
    """Every pool's tasks."""

    def __init__(
        self,
        config: Config,
        adapters: Mapping[str, Adapter],
        encode: Encoder,
        runner: Runner,
        patience: Patience | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._abandonment = Abandonment(config.tasks.abandon_after_s, self._loop, self.cancel)
        self._runner = runner
        self._patience = patience or Patience()
        self._tally = tally or NoTally()

        def build(pool: PoolConfig) -> Pool:
            explain = partial(runner.explain, pool.id)
            world = World(encode, self._loop.time, explain, runner.spare_vram_bytes)
            return Pool(pool, adapters[pool.engine], Core(pool, world))

        self._pools = {pool.id: build(pool) for pool in config.pools}
        self._register = Register(config.tasks.retain_s, self._loop)
        self._refusals = Refusals(self._loop)
        self.is_stopping = False
        """Nothing is admitted any more."""
        self._runs: dict[Grant, asyncio.Task[bool]] = {}

    # -- what a client asks ------------------------------------------------------------------

    def submit(self, request: TaskRequest) -> Admitted | Rejected:
        """Admit a task, or say why not; a rejected one leaves no trace."""
        task_id = request.task_id or _make_task_id()
        spec = decide_spec(request, task_id, map(self._runner.config, self._pools))
        if isinstance(spec, Rejected):
            return spec
        pool = self._pools[spec.pool_id]
        if self._register.get(task_id) is not None:
            message = f"task_id {task_id} is known already"
            return Rejected(Code.CONFLICT, message, pool.config.engine)
        entry = pool.core.admit(spec)
        if isinstance(entry, Rejected):
            self._refusals.note(spec.pool_id, entry.code)
            return entry
        self._register.add(entry)
        replica_id = None if entry.grant is None else entry.grant.slots.replica_id
        self._tally.count_enqueued(spec.pool_id, replica_id, spec.priority)
        self._abandonment.watch(entry)
        self._do(pool)
        return pool.core.describe_admission(entry)

    def find(self, task_id: str) -> Entry | None:
        """The task, while it runs and for ``retain_s`` after its end."""
        return self._register.get(task_id)

    def open_reader(self, entry: Entry, cursor: int) -> Reader:
        """A reader of the task's events from number ``cursor`` on, up to the log's length."""
        assert 0 <= cursor <= len(entry.log), f"no event {cursor} in the log"
        return Reader(entry, cursor, lambda: self._abandonment.watch(entry))

    def cancel(self, entry: Entry, reason: str = "cancelled by the client") -> None:
        """End a task wherever it stands; nothing happens to one that has ended."""
        pool = self._pools[entry.task.spec.pool_id]
        pool.core.cancel(entry, reason)
        self._do(pool)

    # -- what the supervisor tells -------------------------------------------------------------

    def open_slots(self, config: PoolConfig, endpoint: Endpoint) -> None:
        """A replica of the pool is ready, with the model that ``config`` names."""
        pool, future = self._pools[config.id], self._loop.create_future
        pool.replicas[endpoint.replica_id] = Replica(config, endpoint, future(), future())
        pool.core.open_slots(endpoint.replica_id, config.slots)
        self._do(pool)

    def retire_slots(self, pool_id: str, replica_id: str) -> asyncio.Future[None]:
        """A replica takes no more tasks; the answer is done once it has finished those it has."""
        pool = self._pools[pool_id]
        replica = pool.replicas[replica_id]
        replica.note_work(pool.core.retire_slots(replica_id))
        return replica.idle

    def hold(self, pool_id: str) -> None:
        """The pool's slots are about to go and others to come: tasks are admitted and wait."""
        self._pools[pool_id].core.hold()

    def resume(self, pool_id: str) -> None:
        """Without slots the pool refuses tasks again."""
        self._pools[pool_id].core.resume()

    def close_slots(self, pool_id: str, replica_id: str) -> tuple[str, ...]:
        """A replica takes no task any more; the streams it had end by themselves.

        Returns the ids of the tasks that it has or has just failed, in order of grant.
        """
        pool = self._pools[pool_id]
        task_ids = pool.core.close_slots(replica_id)
        pool.replicas.pop(replica_id).closed.set_result(None)
        return task_ids

    # -- what /health shows ----------------------------------------------------------------------

    def queue_depths(self, pool_id: str) -> dict[Priority, int]:
        """How many tasks wait, for each priority."""
        return {priority: self._pools[pool_id].core.depth(priority) for priority in Priority}

    def is_held(self, pool_id: str) -> bool:
        """True while a reload has the pool's slots away and tasks are admitted nevertheless."""
        return self._pools[pool_id].core.is_held

    def slots(self, pool_id: str, replica_id: str) -> Slots | None:
        """The replica's slots; None while it takes no tasks."""
        return self._pools[pool_id].core.slots(replica_id)

    # -- the end -----------------------------------------------------------------------------------

    def stop_admission(self) -> None:
        """Admit nothing from now on, and end what still waits: it would never be served."""
        self.is_stopping = True
        for pool in self._pools.values():
            pool.core.stop_admission()
            self._do(pool)

    async def finish_tasks(self, grace_s: float) -> None:
        """Let running tasks finish for ``grace_s``; cancelling this cuts the grace short."""
        cores = [pool.core for pool in self._pools.values()]
        runs = [run for grant, run in self._runs.items() if any(c.is_running(grant) for c in cores)]
        if runs:
            await asyncio.wait(runs, timeout=grace_s)

    async def end_tasks(self) -> None:
        """End what still runs; after this no task is open and no timer of ours is left."""
        for pool in self._pools.values():
            pool.core.end_tasks()
            self._do(pool)
        while self._runs:  # a run that is cancelled is followed by a watch
            for run in self._runs.values():
                run.cancel()
            await asyncio.wait(self._runs.values())
            await asyncio.sleep(0)  # for the callbacks that release what they held
        self._register.close()
        self._refusals.close()

    # -- doing what a core lists -------------------------------------------------------------------

    def _do(self, pool: Pool) -> None:
        todo = pool.core.take_todo()
        for report in todo.reports:
            log.info(*report.line)
            tokens = (report.tokens_in or 0, report.tokens_out)
            self._tally.count_ended(report.pool_id, report.replica_id, *tokens)
        for entry in todo.ended:
            self._abandonment.watch(entry)
            self._register.retire(entry)
        for grant in todo.run:
            # Looked up here: at the run's first step the replica may be closed, or another one.
            self._run(pool, grant, pool.replicas[grant.slots.replica_id])
        for grant in todo.cut:
            self._runs[grant].cancel()

    def _run(self, pool: Pool, grant: Grant, replica: Replica) -> None:
        def release(_: asyncio.Task[bool]) -> None:
            del self._runs[grant]
            pool.core.release(grant)
            replica.note_work(grant.slots)
            self._do(pool)

        def go_on(run: asyncio.Task[bool]) -> None:
            if not run.cancelled() and run.exception() is None and run.result():
                release(run)
            else:
                self._own(grant, self._see_free(pool, grant, replica), "free a slot of", release)

        self._own(grant, self._serve(pool, grant, replica), "serve", go_on)

    def _own(
        self,
        grant: Grant,
        work: Coroutine[None, None, bool],
        name: str,
        on_done: Callable[[asyncio.Task[bool]], None],
    ) -> None:
        """Hand the grant to an asyncio task of its own."""
        run = self._loop.create_task(work, name=f"{name} {grant.task.spec.task_id}")
        self._runs[grant] = run
        # A callback, since a run that is cancelled before its first step runs no ``finally``.
        run.add_done_callback(on_done)

    async def _serve(self, pool: Pool, grant: Grant, replica: Replica) -> bool:
        """Run a granted task; True where the engine itself is done with it."""
        began_s = self._loop.time()
        spec, core, where = grant.task.spec, pool.core, replica.endpoint.replica_id
        progress = Progress(began_s, replica.reading)
        listener = self._listen(core, grant, progress)
        try:
            outcome = await run_until_stall(
                self._loop,
                relay(pool.adapter, replica.config, replica.endpoint, spec.generation, listener),
                *(progress, pool.config.decode_stall_s),
            )
            match outcome:
                case Broken(reason):
                    log.warning(
                        "lost its stream task=%s replica=%s: %s", spec.task_id, where, reason
                    )
                case Stalled(stall_s):
                    words = "gave it up task=%s stalled_s=%g replica=%s"
                    log.warning(words, spec.task_id, stall_s, where)
            core.end(grant, outcome, self._loop.time() - began_s)
            is_done = isinstance(outcome, Done | Refused)
        except Exception:
            log.exception("task failed inside the daemon task=%s", spec.task_id)
            core.end(grant, Bug(), self._loop.time() - began_s)
            is_done = False
        self._do(pool)
        return is_done

    def _listen(self, core: Core, grant: Grant, progress: Progress) -> Listener:
        now_s = self._loop.time  # the time of the loop's turn: no system call

        def on_prompt(told: PromptProgress) -> None:
            progress.note_prompt(told, now_s())
            core.note_prompt(grant, told)

        def on_text(text: str) -> None:
            progress.token_s = now_s()
            core.write(grant, text)

        def on_unsaid() -> None:
            progress.token_s = now_s()

        return Listener(partial(core.start, grant), on_prompt, on_text, on_unsaid)

    async def _see_free(self, pool: Pool, grant: Grant, replica: Replica) -> bool:
        """Wait until the engine has dropped a task that it did not end, or is gone."""
        where = replica.endpoint.replica_id
        try:
            fault = await find_fault(pool, grant, replica, self._patience)
        except Exception:
            log.exception("watching a slot failed inside the daemon replica=%s", where)
            fault = "could not be watched: a bug in orchd"
        if fault is not None and not replica.closed.done():
            try:
                self._runner.report_stuck(pool.config.id, where, fault)
                await asyncio.wait([replica.closed])
            except Exception:
                # The slot is given back: at worst the next task stalls on it.
                log.exception("reporting failed inside the daemon replica=%s", where)
        return True


def _make_task_id() -> str:
    """A random UUID (RFC 9562, section 5.4). ``uuid4`` takes a 20th of an admission (measured)."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) % 4]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"

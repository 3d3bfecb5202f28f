"""One replica: the shell that does what the lifecycle table answers.

Events come through a mailbox, one at a time, so the table always sees the state that it left. Work
that takes time (placing, proving, stopping, the wait for a retry) is one asyncio task or timer at
most, and ends in an event; who waits because there is no room is woken before its time once there
is.

Invariants: only ``_step`` sets ``state``; only ``want`` and ``unwant`` say whether it is wanted; a
reservation and a port are held from PLACED until GIVE_BACK, which comes only once the process is
reaped, or are left to a process that cannot be killed; slots are open in READY only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial

from orchd.config.model import PoolConfig
from orchd.errors import EngineError, HostError
from orchd.runner import lifecycle
from orchd.runner.attempt import Attempt, StartAttempt
from orchd.runner.exit_status import ExitStatus
from orchd.runner.history import History
from orchd.runner.incident import Incident, IncidentLog
from orchd.runner.lifecycle import Action, Event, State
from orchd.runner.mailbox import Mailbox
from orchd.runner.placement import ReplicaPlan
from orchd.runner.resources import Lease, NoRoom, OnReturned, Resources
from orchd.runner.restart import Timing
from orchd.runner.retry import Retry
from orchd.runner.slot_gate import SlotGate
from orchd.runner.status import ReplicaStatus, explain

log = logging.getLogger(__name__)


class Replica:
    """One engine process on one device, for as long as it is wanted."""

    def __init__(
        self,
        plan: ReplicaPlan,
        pool: PoolConfig,
        start_attempt: StartAttempt,
        resources: Resources,
        gate: SlotGate,
        timing: Timing,
        incidents: IncidentLog,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        self._pool = pool
        self._start_attempt = start_attempt
        self._resources = resources
        self._gate = gate
        self._timing = timing
        self._incidents = incidents
        self._loop = asyncio.get_running_loop()
        self._is_wanted = False
        self.state = State.DOWN
        self._since_s = self._loop.time()
        self._is_down = asyncio.Event()
        self._post = Mailbox(self._step, on_change).post
        self._work: asyncio.Task[None] | None = None
        self._retry = Retry(resources, lambda: self._post(Event.RETRY_DUE))
        self._lease: Lease | None = None
        self.no_room: NoRoom | None = None
        self._attempt: Attempt | None = None
        self.history = History(timing.restart)
        self._death: Incident | None = None
        self._on_returned: OnReturned | None = None
        self._version: str | None = None
        self._do: dict[Action, Callable[[], None]] = {
            Action.PLACE: lambda: self._start_work(self._place()),
            Action.SPAWN: self._spawn,
            Action.OPEN_SLOTS: self._open_slots,
            Action.CLOSE_SLOTS: self._close_slots,
            Action.STOP_PROCESS: lambda: self._start_work(self._stop(timing.stop_grace_s)),
            Action.KILL_PROCESS: lambda: self._start_work(self._stop(grace_s=0)),
            Action.RECORD: self._record,
            Action.GIVE_BACK: self._give_back,
            Action.ABANDON: self._abandon,
            Action.SCHEDULE_RETRY: self._schedule_retry,
            Action.CANCEL_WORK: self._cancel_work,
            Action.DECIDE_NEXT: self._decide_next,
        }

    # -- what the supervisor asks --------------------------------------------------------------

    def want(self) -> None:
        """Bring it up, and up again after every failure; one that is being stopped, after that."""
        self._is_wanted = True
        if self.state is State.DOWN:
            self.history.forget_failure()
            self._decide_next()

    async def unwant(self) -> None:
        """Take it down; returns when its process is gone and all that it held is given back."""
        self._give_up()
        if self.state is not State.DOWN:
            self._post(Event.STOP)
        # Not until it is seen to be DOWN: wanted again, it stays so for this one loop turn only.
        if self.state is not State.DOWN:
            await self._is_down.wait()

    def retire(self) -> Coroutine[None, None, None]:
        """Give it no more tasks from now on; the answer, awaited, takes it down once it is idle."""
        if self.state is not State.READY:
            return self.unwant()
        self._give_up()  # should it die before, nobody wants it back
        return self._unwant_after(self._gate.retire_slots(*self._names))

    async def _unwant_after(self, idle: Awaitable[None]) -> None:
        await idle
        await self.unwant()

    def report_stuck(self, reason: str) -> None:
        """Start it afresh: it does not do as it should. Nothing happens where it is not ready."""
        if self.state is State.READY:
            self.history.condemn(reason)
            self._post(Event.STUCK)

    def hurry(self) -> None:
        """Do not wait any longer for an engine that is being stopped."""
        if self.state is State.STOPPING:
            self._held_attempt().kill()

    def lose_device(self, why: str) -> None:
        """Its GPU computes nothing any more: it is tried elsewhere, or here once that is back."""
        if self.state in (State.LOADING, State.READY):
            self.history.condemn(f"its device {self._held_lease().device} {why}")
            self._post(Event.DEVICE_LOST)

    def status(self) -> ReplicaStatus:
        """How it stands now."""
        history, so_far_s = self.history, self._loop.time() - self._since_s
        attempt, doing = self._attempt, self._resources.describe_progress(self._pool)
        doing = doing if attempt is None else attempt.describe_load()
        return ReplicaStatus(
            replica_id=self.plan.replica_id,
            model=self._pool.model,
            device=None if self._lease is None else self._lease.device,
            state=self.state,
            pid=None if self._attempt is None else self._attempt.pid,
            restarts=history.restarts,
            reason=explain(self.state, so_far_s, history.failure, history.delay_s, doing),
            engine_version=self._version,
            has_failed=bool(history.failure),
            retry_s=max(history.delay_s - so_far_s, 0.0) if self.state is State.BACKOFF else None,
        )

    # -- the machine ---------------------------------------------------------------------------

    def _step(self, event: Event) -> None:
        state, actions = lifecycle.step(self.state, event)
        self.state, self._since_s = state, self._loop.time()
        if state is State.DOWN:
            self._is_down.set()
        else:
            self._is_down.clear()
        for action in actions:
            try:
                self._do[action]()
            except Exception:
                # The actions behind it still give back what is held and schedule what comes next.
                log.exception("%s failed replica=%s", action, self.plan.replica_id)

    def _start_work(self, work: Coroutine[None, None, None]) -> None:
        name = f"replica {self.plan.replica_id} {self.state}"
        self._work = self._loop.create_task(work, name=name)

    def _cancel_work(self) -> None:
        if self._work is not None:
            self._work.cancel()
        self._retry.cancel()

    # -- actions -------------------------------------------------------------------------------

    async def _place(self) -> None:
        self.no_room = None
        try:
            outcome = await self._resources.place(self.plan, self._pool)
        except HostError as error:
            self._fail_to_start(str(error), Event.NO_FIT)
        except Exception:
            log.exception("placement failed replica=%s", self.plan.replica_id)
            self._fail_to_start("a bug in orchd", Event.NO_FIT)
        else:
            match outcome:
                case NoRoom(reason):
                    self.no_room = outcome
                    self._fail_to_start(reason, Event.NO_FIT)
                case Lease():
                    self._lease = outcome
                    self._post(Event.PLACED)

    def _fail_to_start(self, reason: str, event: Event) -> None:
        log.warning("could not start pool=%s replica=%s: %s", *self._names, reason)
        self.history.fail(reason)
        self._post(event)

    def _spawn(self) -> None:
        try:
            on_exit = partial(self._end, Event.EXITED)
            self._attempt = self._start_attempt(self.plan.replica_id, self._held_lease(), on_exit)
        except HostError as error:
            self._fail_to_start(str(error), Event.SPAWN_FAILED)
        except Exception:
            # Whatever it was: a replica that is said to load and has no process would be stuck.
            log.exception("spawning failed replica=%s", self.plan.replica_id)
            self._fail_to_start("a bug in orchd", Event.SPAWN_FAILED)
        else:
            self._version = self._attempt.version
            self.history.begin()
            self._start_work(self._prove(self._attempt))

    async def _prove(self, attempt: Attempt) -> None:
        try:
            await attempt.prove()
        except EngineError as error:
            self.history.condemn(str(error))
            self._post(Event.LOAD_FAILED)
        except Exception:
            log.exception("readiness check failed replica=%s", self.plan.replica_id)
            self.history.condemn("a bug in orchd")
            self._post(Event.LOAD_FAILED)
        else:
            self._version = attempt.version
            self._post(Event.PROVEN)

    def _open_slots(self) -> None:
        log.info("became ready pool=%s replica=%s", *self._names)
        self.history.become_ready(self._loop.time())
        self._gate.open_slots(self._pool, self._held_attempt().endpoint)

    def _close_slots(self) -> None:
        tasks = self._gate.close_slots(*self._names)
        self.history.cease(tasks, self._loop.time())

    async def _stop(self, grace_s: float) -> None:
        if not await self._held_attempt().stop(grace_s, self._timing.kill_timeout_s):
            self._end(Event.KILL_TIMED_OUT, None)

    def _record(self) -> None:
        death = self.history.end(self._death)
        self._on_returned = None if death is None else self._incidents.add(death)
        if death is not None:
            log.warning(
                "lost an engine pool=%s replica=%s device=%s pid=%d ready_s=%.0f tasks=%d: %s",
                *(*self._names, death.device, death.pid, death.ready_s),
                *(len(death.tasks), death.cause),
            )

    def _give_back(self) -> None:
        self._resources.give_back(self._held_lease(), self._on_returned)
        self._lease = self._attempt = self._on_returned = None

    def _abandon(self) -> None:
        self._held_attempt().abandon(self._on_returned)
        self._lease = self._attempt = self._on_returned = None

    def _decide_next(self) -> None:
        following = lifecycle.decide_next(
            is_wanted=self._is_wanted, has_failed=bool(self.history.failure)
        )
        if following is not None:
            self._post(following)

    def _schedule_retry(self) -> None:
        delay_s = self.history.plan_retry()
        log.info("tries again in %g s pool=%s replica=%s", delay_s, *self._names)
        self._retry.schedule(delay_s, self.no_room)

    def _end(self, event: Event, exit_status: ExitStatus | None) -> None:
        """Its process is gone, or cannot be made to go."""
        verdict = self.history.verdict
        is_asked = self.state is State.STOPPING and not verdict and exit_status is not None
        attempt = self._held_attempt()
        self._death = None if is_asked else attempt.describe_end(exit_status, verdict)
        self._post(event)

    def _give_up(self) -> None:
        self._is_wanted = False
        self.history.forget_failure()

    # -- what it holds -------------------------------------------------------------------------

    @property
    def _names(self) -> tuple[str, str]:
        return self._pool.id, self.plan.replica_id

    def _held_lease(self) -> Lease:
        assert self._lease is not None, f"{self.plan.replica_id} holds nothing in {self.state}"
        return self._lease

    def _held_attempt(self) -> Attempt:
        assert self._attempt is not None, f"{self.plan.replica_id} runs nothing in {self.state}"
        return self._attempt

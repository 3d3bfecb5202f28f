"""One replica: the shell that does what the lifecycle table answers.

``_post`` takes one event at a time to its end, also when an action brings the next event about, so
the table always sees the state that it left. Work that takes time (placing, proving, stopping, the
wait for a retry) is one asyncio task or timer at most, and ends in an event; who waits because
there is no room is woken before its time once there is.

Invariants: only ``_post`` sets ``state``; a reservation and a port are held from PLACED until
GIVE_BACK, which comes only once the process is reaped; slots are open in READY only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Adapter, Endpoint
from orchd.errors import EngineError, HostError
from orchd.runner import lifecycle
from orchd.runner.guard import Guard
from orchd.runner.launch import launch_engine
from orchd.runner.lifecycle import Action, Event, State
from orchd.runner.output import EngineOutput
from orchd.runner.placement import ReplicaPlan
from orchd.runner.ports import HOST
from orchd.runner.process import EngineProcess, Watcher
from orchd.runner.readiness import prove_ready
from orchd.runner.resources import Lease, NoRoom, Resources
from orchd.runner.restart import Timing
from orchd.runner.retry import Retry
from orchd.runner.slot_gate import SlotGate
from orchd.runner.status import ReplicaStatus, explain

log = logging.getLogger(__name__)


class Replica:
    """One wanted engine process on one device."""

    def __init__(
        self,
        plan: ReplicaPlan,
        pool: PoolConfig,
        adapter: Adapter,
        resources: Resources,
        gate: SlotGate,
        timing: Timing,
        guard: Guard,
    ) -> None:
        self.plan = plan
        self._pool = pool
        self._adapter = adapter
        self._resources = resources
        self._gate = gate
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._state = State.DOWN
        self._since_s = self._loop.time()
        self._is_down = asyncio.Event()
        self._events: deque[Event] = deque()
        self._is_posting = False
        self._work: asyncio.Task[None] | None = None
        self._retry = Retry(resources, lambda: self._post(Event.RETRY_DUE))
        self._lease: Lease | None = None
        self._no_room: NoRoom | None = None
        self._process: EngineProcess | None = None
        self._output = EngineOutput(self._since_s)
        self._policy = timing.restart
        self._stop_grace_s = timing.stop_grace_s
        self._starts = 0
        self._opened_s = self._since_s
        self._ready_for_s = 0.0
        self._failure = ""
        self._version: str | None = None
        self._do: dict[Action, Callable[[], None]] = {
            Action.PLACE: lambda: self._start_work(self._place()),
            Action.SPAWN: self._spawn,
            Action.OPEN_SLOTS: self._open_slots,
            Action.CLOSE_SLOTS: self._close_slots,
            Action.STOP_PROCESS: self._stop_process,
            Action.GIVE_BACK: self._give_back,
            Action.SCHEDULE_RETRY: self._schedule_retry,
            Action.CANCEL_WORK: self._cancel_work,
        }

    # -- what the supervisor asks --------------------------------------------------------------

    def want(self) -> None:
        """Bring it up, and up again after every failure."""
        self._post(Event.WANT)

    async def unwant(self) -> None:
        """Take it down; returns when its process is gone and all that it held is given back."""
        if self._state not in (State.DOWN, State.STOPPING):
            self._post(Event.UNWANT)
        if self._state is not State.DOWN:
            await self._is_down.wait()

    def report_stuck(self, reason: str) -> None:
        """Start it afresh: it is ready and does not do as it should."""
        self._failure = reason
        self._post(Event.STUCK)

    def hurry(self) -> None:
        """Do not wait any longer for an engine that is being stopped."""
        if self._state is State.STOPPING and self._process is not None:
            self._process.kill()

    def lose_device(self, why: str) -> None:
        """Its GPU computes nothing any more: it is tried elsewhere, or here once that is back."""
        if self._state in (State.LOADING, State.READY):
            self._failure = f"its device {self._held_lease().device} {why}"
            self._post(Event.DEVICE_LOST)

    def status(self) -> ReplicaStatus:
        """How it stands now."""
        so_far_s = self._loop.time() - self._since_s
        left_s = max(self._policy.delay_s - so_far_s, 0.0)
        return ReplicaStatus(
            replica_id=self.plan.replica_id,
            device=None if self._lease is None else self._lease.device,
            state=self._state,
            pid=None if self._process is None else self._process.pid,
            restarts=max(self._starts - 1, 0),
            reason=explain(self._state, so_far_s, self._failure, self._policy.delay_s),
            engine_version=self._version,
            has_failed=bool(self._failure),
            retry_s=left_s if self._state is State.BACKOFF else None,
        )

    # -- the machine ---------------------------------------------------------------------------

    def _post(self, event: Event) -> None:
        self._events.append(event)
        if self._is_posting:
            return
        self._is_posting = True
        try:
            while self._events:
                self._step(self._events.popleft())
        finally:
            self._is_posting = False

    def _step(self, event: Event) -> None:
        state, actions = lifecycle.step(self._state, event)
        self._state, self._since_s = state, self._loop.time()
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

    def _start_work(self, work: Coroutine[Any, Any, None]) -> None:
        name = f"replica {self.plan.replica_id} {self._state}"
        self._work = self._loop.create_task(work, name=name)

    def _cancel_work(self) -> None:
        if self._work is not None:
            self._work.cancel()
        self._retry.cancel()

    # -- actions -------------------------------------------------------------------------------

    async def _place(self) -> None:
        try:
            outcome = await self._resources.place(self.plan, self._pool)
        except HostError as error:
            self._find_no_device(str(error))
        except Exception:
            log.exception("placement failed replica=%s", self.plan.replica_id)
            self._find_no_device("a bug in orchd")
        else:
            match outcome:
                case NoRoom(reason):
                    self._find_no_device(reason, outcome)
                case Lease():
                    self._lease = outcome
                    self._post(Event.PLACED)

    def _find_no_device(self, reason: str, no_room: NoRoom | None = None) -> None:
        self._failure, self._no_room = reason, no_room
        self._post(Event.NO_FIT)

    def _spawn(self) -> None:
        self._output = EngineOutput(self._loop.time())
        try:
            self._version = self._start_process(self._held_lease())
        except HostError as error:
            self._failure = str(error)
            self._post(Event.SPAWN_FAILED)
        except Exception:
            # Whatever it was: a replica that is said to load and has no process would be stuck.
            log.exception("spawning failed replica=%s", self.plan.replica_id)
            self._failure = "a bug in orchd"
            self._post(Event.SPAWN_FAILED)
        else:
            self._starts += 1
            self._start_work(self._prove())

    def _start_process(self, lease: Lease) -> str | None:
        """Start the engine; its version where that is known without asking it."""
        watcher = Watcher(self._on_output, self._on_exit)
        self._process, version = launch_engine(
            self._adapter, self._pool, lease, watcher, self._guard
        )
        self._resources.note_process(lease, self._process.pid)
        log.info(
            "started an engine pool=%s replica=%s device=%s pid=%d port=%d",
            *(self._pool.id, self.plan.replica_id, lease.device, self._process.pid, lease.port),
        )
        return version

    async def _prove(self) -> None:
        try:
            identity = await prove_ready(
                self._adapter,
                self._pool,
                self._endpoint(),
                self._pool.model,
                lambda: self._output.last_output_s,
            )
            await self._resources.prove_memory(self._held_lease(), self._pool)
        except EngineError as error:
            self._failure = str(error)
            self._post(Event.LOAD_FAILED)
        except Exception:
            log.exception("readiness check failed replica=%s", self.plan.replica_id)
            self._failure = "a bug in orchd"
            self._post(Event.LOAD_FAILED)
        else:
            self._version = self._version or identity.version
            self._post(Event.PROVEN)

    def _open_slots(self) -> None:
        log.info("became ready pool=%s replica=%s", self._pool.id, self.plan.replica_id)
        self._opened_s = self._loop.time()
        self._failure = ""
        self._gate.open_slots(self._pool.id, self._endpoint(), self._pool.slots)

    def _close_slots(self) -> None:
        self._ready_for_s = self._loop.time() - self._opened_s
        self._gate.close_slots(self._pool.id, self.plan.replica_id)

    def _stop_process(self) -> None:
        # Taken now: it may exit by itself before the work begins.
        assert self._process is not None, f"{self.plan.replica_id} has nothing to stop"
        self._start_work(self._process.stop(self._stop_grace_s))

    def _give_back(self) -> None:
        self._resources.give_back(self._held_lease())
        self._lease = None

    def _schedule_retry(self) -> None:
        self._policy = self._policy.after_failure(self._ready_for_s)
        self._ready_for_s = 0.0
        delay_s = self._policy.delay_s
        log.warning(
            "failed, tries again in %g s pool=%s replica=%s: %s",
            *(delay_s, self._pool.id, self.plan.replica_id, self._failure),
        )
        self._retry.schedule(delay_s, self._no_room)
        self._no_room = None

    # -- what the process tells ----------------------------------------------------------------

    def _on_output(self, data: bytes) -> None:
        for line in self._output.feed(data, self._loop.time()):
            log.debug("replica=%s | %s", self.plan.replica_id, line)

    def _on_exit(self, how: str) -> None:
        self._process = None
        how = f"{how}: {self._output.last_words}"
        # A stream that breaks is often heard of before the exit that broke it, which says why.
        self._failure = f"{self._failure}; then {how}" if self._state is State.FAILING else how
        self._post(Event.EXITED)

    # -- what it holds -------------------------------------------------------------------------

    def _endpoint(self) -> Endpoint:
        lease = self._held_lease()
        return Endpoint(self.plan.replica_id, HOST, lease.port, lease.key)

    def _held_lease(self) -> Lease:
        assert self._lease is not None, f"{self.plan.replica_id} holds nothing in {self._state}"
        return self._lease

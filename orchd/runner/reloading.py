"""One reload of a pool, from the check of its new model to the end of the old one, or back.

Side by side: the new generation loads and proves itself while the old one serves; they switch; the
old one finishes its tasks and goes. In place: the pool is held (tasks are admitted and wait), the
old one finishes and goes, the new one loads in its room; they switch. Whatever fails before the
switch ends in ``_roll_back``, after which the old generation is wanted as before.

Invariants: the old generation is not touched before the new model is seen to be readable and to
fit; a reload that was not cancelled ends with one generation; ``answer`` is given exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from orchd.config.model import PoolConfig
from orchd.errors import EngineError, HostError, OrchdError
from orchd.reload_outcome import Reloaded, ReloadFailed, ReloadOutcome, Strategy
from orchd.runner.generation import Failure
from orchd.runner.placement import Machine, Needs, NoFit, ReplicaPlan
from orchd.runner.pool import Pool
from orchd.runner.reload import ReloadPlan, plan_reload
from orchd.runner.reload_status import ReloadStatus, Step
from orchd.runner.resources import Resources
from orchd.runner.slot_gate import PoolGate

log = logging.getLogger(__name__)

_TRIES = 3
"""How often the room that was found may be gone again before the reload has failed."""


class Reload:
    """A reload of one pool; ``start`` it once."""

    def __init__(
        self, pool: Pool, config: PoolConfig, resources: Resources, gate: PoolGate
    ) -> None:
        self._pool = pool
        self._config = config
        self._resources = resources
        self._gate = gate
        self._old = pool.active
        self._leaving: Awaitable[object] | None = None
        """The end of the old generation, once the new one serves."""
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._step = Step.CHECKING
        self._strategy: Strategy | None = None
        self.answer: asyncio.Future[ReloadOutcome] = self._loop.create_future()

    def status(self) -> ReloadStatus:
        """How it stands now."""
        return ReloadStatus(self._config.model, self._strategy, self._step, self._so_far_s)

    def start(self, on_end: Callable[[], object]) -> None:
        """From here on it goes by itself, and ends with ``on_end`` and ``answer``."""
        log.info("began a reload pool=%s model=%s", self._pool.id, self._config.model)
        self._work = self._loop.create_task(self._go(), name=f"reload {self._pool.id}")
        self._work.add_done_callback(lambda work: self._end(work, on_end))

    async def stop(self) -> None:
        """End it where it stands; both generations are left to whoever stops them."""
        self._work.cancel()
        await asyncio.wait([self._work])

    def _end(self, work: asyncio.Task[ReloadOutcome], on_end: Callable[[], object]) -> None:
        self._gate.resume(self._pool.id)
        self._resources.unclaim(self._pool.id)
        on_end()
        if work.cancelled():
            # What has been switched is switched.
            stopped = ReloadFailed("the daemon is stopping")
            self.answer.set_result(stopped if self._leaving is None else self._describe())
        elif (error := work.exception()) is not None:
            log.error("a reload broke inside the daemon pool=%s", self._pool.id, exc_info=error)
            self.answer.set_result(ReloadFailed("a bug in orchd; its log tells more"))
        else:
            self.answer.set_result(work.result())

    async def _go(self) -> ReloadOutcome:
        try:
            await self._bring_up()
        except OrchdError as error:
            return await self._fail(str(error))
        except Exception:
            log.exception("a reload failed inside the daemon pool=%s", self._pool.id)
            return await self._fail("a bug in orchd")
        await self._see_off()
        return self._succeed()

    # -- forth ---------------------------------------------------------------------------------

    async def _bring_up(self) -> None:
        """Have the new generation serve. Raises OrchdError where it will not."""
        needs = await self._resources.needs(self._config)
        for _ in range(_TRIES):
            machine = await self._resources.survey(self._config)
            plans = self._pool.plan(self._config, machine.snapshot)
            way = self._decide(plans, needs, machine)
            self._strategy = way.strategy
            log.info("planned a reload pool=%s strategy=%s", self._pool.id, way.strategy)
            if way.strategy is Strategy.IN_PLACE:
                await self._make_room(way.claims)
            failure = await self._load(plans)
            if failure is None:
                return
            # Another may have been quicker to the room beside the old ones; where those are down
            # already, they shall come back at once.
            if not failure.lacks_room or way.strategy is Strategy.IN_PLACE:
                raise EngineError(failure.reason)
            await self._dismiss()
        raise HostError("the room for it was gone again each time that it was found")

    def _decide(self, plans: Sequence[ReplicaPlan], needs: Needs, machine: Machine) -> ReloadPlan:
        if not plans:
            raise HostError(machine.snapshot.reason or "none of the pool's devices is there")
        leaving = [replica.plan.replica_id for replica in self._old.replicas]
        decision = plan_reload(plans, needs, machine, leaving)
        if isinstance(decision, NoFit):
            raise HostError(decision.reason)
        return decision

    async def _make_room(self, claims: Mapping[str, int]) -> None:
        self._step = Step.FINISHING
        self._gate.hold(self._pool.id)
        self._resources.claim(self._pool.id, claims)
        await self._old.retire()

    async def _load(self, plans: Sequence[ReplicaPlan]) -> Failure | None:
        is_beside = self._strategy is Strategy.SIDE_BY_SIDE
        self._step = Step.LOADING if is_beside else Step.REPLACING
        failure = await self._pool.prepare(self._config, plans).come_up()
        if failure is None:
            self._leaving = self._pool.switch()
            log.info("switched pool=%s model=%s", self._pool.id, self._config.model)
        return failure

    async def _see_off(self) -> None:
        """Wait for the end of the old generation."""
        assert self._leaving is not None, "nothing was switched"
        self._step = Step.RETIRING
        await self._leaving
        self._pool.forget()

    # -- back ----------------------------------------------------------------------------------

    async def _fail(self, reason: str) -> ReloadFailed:
        failed = ReloadFailed(f"{reason}; {await self._roll_back()}")
        log.warning("could not reload pool=%s: %s", self._pool.id, failed.message)
        return failed

    async def _roll_back(self) -> str:
        """Have the old generation serve as before; tells how it stands."""
        self._step = Step.ROLLING_BACK
        await self._dismiss()
        old = f"the old model {self._old.config.model}"
        if self._strategy is not Strategy.IN_PLACE:
            return f"{old} was not touched"
        self._old.want_again()
        failure = await self._old.settle()
        if failure is None:
            return f"{old} is back"
        how = "is back but for what" if failure.is_partial else "is not back yet and"
        return f"{old} {how} is tried again: {failure.reason}"

    async def _dismiss(self) -> None:
        """Take down the new generation, if there is one."""
        if self._pool.other is not None:
            await self._pool.other.unwant()
            self._pool.forget()

    # -- the answer ----------------------------------------------------------------------------

    @property
    def _so_far_s(self) -> float:
        return self._loop.time() - self._began_s

    def _succeed(self) -> Reloaded:
        reloaded = self._describe()
        log.info(
            "reloaded pool=%s model=%s strategy=%s took_ms=%d",
            *(reloaded.pool_id, reloaded.model_ref, reloaded.strategy, reloaded.took_ms),
        )
        if not self._pool.models.is_configured:
            configured = self._pool.models.configured.model
            words = "a reload does not outlive the daemon: its next start serves %s pool=%s"
            log.info(words, configured, self._pool.id)
        return reloaded

    def _describe(self) -> Reloaded:
        assert self._strategy is not None, "a new model serves that was never placed"
        old, new, took_ms = self._old.config, self._config, round(self._so_far_s * 1000)
        return Reloaded(self._pool.id, new.model, old.model, self._strategy, took_ms)

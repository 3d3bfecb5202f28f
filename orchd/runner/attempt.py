"""One try of a replica: an engine's process, and all that it holds from its spawn to its end.

Invariant: when the process is gone, ``on_exit`` is called exactly once; where it was abandoned
before, its lease is given back here instead.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable
from functools import partial

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Adapter, Endpoint
from orchd.runner.exit_status import ExitStatus
from orchd.runner.guard import Guard
from orchd.runner.incident import Incident, describe_death
from orchd.runner.launch import launch_engine
from orchd.runner.listener import is_strange
from orchd.runner.load_progress import Signs
from orchd.runner.output import EngineOutput
from orchd.runner.ports import HOST
from orchd.runner.process import EngineProcess, Watcher
from orchd.runner.process_tree import read_computed_s, read_resident_bytes
from orchd.runner.readiness import Candidate, prove_ready
from orchd.runner.resources import Lease, OnReturned, Resources
from orchd.runner.slow_call import SlowCall

log = logging.getLogger(__name__)

_MEASURE_INTERVAL_S = 1.0
"""How often its memory is read: that takes milliseconds for hundreds of threads (measured)."""
_SEARCH_TIMEOUT_S = 10.0
"""How long the search for a port's holder may take: every descriptor of this user is looked at."""


class Attempt:
    """One engine process of a replica. Constructing it spawns it; raises HostError where that
    fails, and the lease is the caller's still."""

    def __init__(
        self,
        pool: PoolConfig,
        adapter: Adapter,
        resources: Resources,
        guard: Guard,
        replica_id: str,
        lease: Lease,
        on_exit: Callable[[ExitStatus], None],
    ) -> None:
        self.lease = lease
        self.endpoint = Endpoint(replica_id, HOST, lease.port, lease.key)
        self._pool = pool
        self._adapter = adapter
        self._resources = resources
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._output = EngineOutput(self._loop.time())
        watcher = Watcher(self._hear, self._see_exit)
        self._process: EngineProcess
        self._process, self.version = launch_engine(adapter, pool, lease, watcher, guard)
        self._host_bytes, self._computed_s, self._measured_s = 0, 0.0, -math.inf
        self._phase, self._phase_at_bytes = "", 0
        self._is_abandoned = False
        self._on_returned: OnReturned | None = None
        resources.note_process(lease, self.pid)
        log.info(
            "started an engine pool=%s replica=%s device=%s pid=%d port=%d",
            *(pool.id, replica_id, lease.device, self.pid, lease.port),
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def describe_load(self) -> str:
        """How far its load has come, as its output tells it; empty where that tells nothing."""
        # Read when somebody asks: output may come faster than it can be read by the line.
        if self._phase_at_bytes != self._output.size_bytes:
            self._phase_at_bytes = self._output.size_bytes
            phases = map(self._adapter.read_phase, reversed(self._output.searched_lines))
            self._phase = next(filter(None, phases), None) or self._phase
        return self._phase

    async def prove(self) -> None:
        """Return once it has proven that it serves. Raises EngineError where it will not."""
        candidate = Candidate(
            *(self._adapter, self._pool, self.endpoint),
            *(self._read_signs, self._is_strange),
        )
        identity = await prove_ready(candidate)
        await self._resources.prove_memory(self.lease, self._pool)
        self.version = self.version or identity.version

    async def stop(self, grace_s: float, kill_timeout_s: float) -> bool:
        """End it, with a grace where that is not 0; False where it cannot be killed."""
        return await self._process.stop(grace_s, kill_timeout_s)

    def kill(self) -> None:
        """End it now, if it is there still."""
        self._process.kill()

    def describe_end(self, exit_status: ExitStatus | None, verdict: str) -> Incident:
        """Its death, as far as it is known here; ``verdict`` is why it was being ended."""
        output = self._output
        is_from_outside = exit_status is not None and exit_status.is_from_outside
        words = output.last_line if is_from_outside else self._find_last_words()
        return Incident(
            ended_at=time.time(),
            replica_id=self.endpoint.replica_id,
            device=self.lease.device,
            pid=self.pid,
            cause=describe_death(exit_status, verdict, words),
            exit_status=exit_status,
            last_lines=output.tail,
            memory_before_bytes=self._resources.used_bytes(self.lease.device),
        )

    def abandon(self, on_returned: OnReturned | None) -> None:
        """Let it keep what it holds; that is given back whenever it is gone after all."""
        self._is_abandoned = True
        self._on_returned = on_returned
        self._resources.abandon(self.lease, self.pid)

    def _find_last_words(self) -> str:
        return self._adapter.find_cause(self._output.searched_lines) or self._output.last_words

    def _read_signs(self, health: str) -> Signs:
        now_s = self._loop.time()
        if now_s - self._measured_s >= _MEASURE_INTERVAL_S:
            self._host_bytes, self._measured_s = read_resident_bytes(self.pid), now_s
            self._computed_s = read_computed_s(self.pid)
        device_bytes = self._resources.seen_bytes(self.lease)
        size_bytes = self._output.size_bytes
        return Signs(health, size_bytes, self._host_bytes, device_bytes, self._computed_s)

    async def _is_strange(self) -> bool:
        # Off the loop: the kernel lists every connection of the machine, at times thousands.
        search = SlowCall("find a listener", partial(is_strange, self.lease.port, self.pid))
        try:
            return await search.answer(_SEARCH_TIMEOUT_S)
        except TimeoutError:
            return False

    def _hear(self, data: bytes) -> None:
        for line in self._output.feed(data, self._loop.time()):
            log.debug("replica=%s | %s", self.endpoint.replica_id, line)

    def _see_exit(self, exit_status: ExitStatus) -> None:
        if self._is_abandoned:
            replica_id = self.endpoint.replica_id
            log.warning("is gone after all pid=%d replica=%s", self.pid, replica_id)
            self._resources.give_back(self.lease, self._on_returned)
        else:
            self._on_exit(exit_status)


StartAttempt = Callable[[str, Lease, Callable[[ExitStatus], None]], Attempt]
"""An ``Attempt`` of one pool: replica id, lease, and who hears of the exit."""

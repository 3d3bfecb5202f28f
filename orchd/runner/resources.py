"""What replicas hold of the machine: reservations of VRAM, and ports.

Invariant: between reading what is reserved and reserving more there is no await, so no two
replicas are promised the same memory.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Adapter
from orchd.engines.registry import ADAPTERS
from orchd.errors import HostError
from orchd.runner.footprint import Footprint
from orchd.runner.learned import Learned
from orchd.runner.placement import CPU, Gpu, NoFit, ReplicaPlan, decide_placement
from orchd.runner.ports import PortPool
from orchd.runner.reckoner import Reckoner
from orchd.runner.slow_call import SlowCall

ANSWER_TIMEOUT_S = 10.0
"""How long NVML, or the disk of a model, may take to answer."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What one replica holds until it is given back."""

    device: str
    footprint: Footprint
    port: int
    key: str = field(repr=False)
    is_cpu_shared: bool


class Resources:
    """The machine's devices and ports; ``sample_gpus`` blocks and may raise HostError."""

    def __init__(
        self,
        sample_gpus: Callable[[], tuple[Gpu, ...]],
        cpu_replicas: int,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        *,
        adapters: Mapping[str, Adapter] = ADAPTERS,
        learned: Learned | None = None,
    ) -> None:
        self._cpu_replicas = cpu_replicas
        self._timeout_s = answer_timeout_s
        self._sampling = SlowCall("sample GPUs", sample_gpus)
        self._reckoner = Reckoner(adapters, learned or Learned(None), answer_timeout_s)
        self._reserved_bytes: Counter[str] = Counter()
        self._ports = PortPool()

    @property
    def is_untouched(self) -> bool:
        """True while no replica holds anything."""
        return not self._ports.has_given and not any(self._reserved_bytes.values())

    async def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs as they are now. Raises HostError where they cannot be seen."""
        try:
            return await self._sampling.answer(self._timeout_s)
        except TimeoutError as error:
            raise HostError(f"NVML did not answer for {self._timeout_s:g} s") from error

    async def place(self, plan: ReplicaPlan, pool: PoolConfig) -> Lease | NoFit:
        """Choose a device for a replica and reserve what it needs there.

        Raises HostError where the model could not be loaded or the devices cannot be seen.
        """
        reading = await self._reckoner.read(pool)
        gpus = await self._visible_gpus(plan)
        footprint = self._reckoner.reckon(pool, reading, "gpu")
        outcome = decide_placement(plan.devices, footprint, gpus, self._reserved_bytes)
        if isinstance(outcome, NoFit):
            return outcome
        if outcome.device == CPU:
            footprint = self._reckoner.reckon(pool, reading, "cpu")
        port = self._ports.take()
        self._reserved_bytes[outcome.device] += footprint.need_bytes
        is_cpu_shared = outcome.device == CPU and self._cpu_replicas > 1
        return Lease(outcome.device, footprint, port, secrets.token_urlsafe(32), is_cpu_shared)

    async def _visible_gpus(self, plan: ReplicaPlan) -> tuple[Gpu, ...]:
        if plan.devices == (CPU,):
            return ()
        try:
            return await self.gpus()
        except HostError:
            if CPU in plan.devices:
                return ()
            raise

    def give_back(self, lease: Lease) -> None:
        """The replica's process is gone."""
        self._reserved_bytes[lease.device] -= lease.footprint.need_bytes
        self._ports.give_back(lease.port)

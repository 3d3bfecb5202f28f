"""Joins what a footprint is made of: the pool, its engine's demand, its files, what was learned.

Whoever is to load a model asks here before, so here its files are also held to their sha256. A disk
that does not answer costs a thread for each pool at most, and nobody who waits for long.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from orchd.config.model import PoolConfig
from orchd.config.model_form import ModelForm, form_of, is_path
from orchd.engines.adapter import Adapter
from orchd.engines.memory_demand import DeviceKind, MemoryDemand
from orchd.errors import HostError
from orchd.runner.allowed import CPU
from orchd.runner.environment import build_environment
from orchd.runner.executable import identify_engine
from orchd.runner.footprint import Footprint, reckon_footprint
from orchd.runner.hub_folder import HubReader
from orchd.runner.learned import Learned
from orchd.runner.model_file import ModelFiles, ModelReader, measure_file
from orchd.runner.placement import Needs
from orchd.runner.remembered import FootprintKey
from orchd.runner.slow_call import SlowCall
from orchd.runner.trust import Trust

ANSWER_TIMEOUT_S = 10.0
"""How long the disk of a model may take to answer."""
READINGS_MAX = 64
"""As many as there may be pools; those of models that are no longer served give way."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the disk said of a pool. ``files`` is None where what they hold does not matter."""

    files: ModelFiles | None
    engine_version: str = ""
    file_bytes: int = 0
    """Of the model, where its head was not looked into."""


class Reckoner:
    """Tells what a replica of a pool needs; without a ``trust`` no file's content is checked."""

    def __init__(
        self,
        adapters: Mapping[str, Adapter],
        learned: Learned,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        trust: Trust | None = None,
    ) -> None:
        self._adapters = adapters
        self._learned = learned
        self._timeout_s = answer_timeout_s
        self._trust = trust
        self._calls: dict[object, SlowCall[Reading]] = {}

    @property
    def readings(self) -> int:
        """How many are kept."""
        return len(self._calls)

    async def needs(self, pool: PoolConfig) -> Needs:
        """What a replica needs, wherever it goes.

        Raises HostError where the model could not be loaded, or must not be.
        """
        # The head comes first: it tells in no time of what is cut short.
        reading = await self.read(pool)
        if self._trust is not None and is_path(pool.engine, pool.model):
            await self._trust.check(pool)
        return Needs(self.reckon(pool, reading, "gpu"), self.reckon(pool, reading, "cpu"))

    def describe_progress(self, pool: PoolConfig) -> str:
        """What is being done before the needs can be told, for the user; empty where nothing is."""
        return "" if self._trust is None else self._trust.describe_progress(pool)

    def learn(self, footprint: Footprint, took_bytes: int) -> None:
        """A replica of that footprint was measured."""
        if footprint.key is not None:
            self._learned.remember(footprint.key, took_bytes)

    async def read(self, pool: PoolConfig) -> Reading:
        """Look at the pool's files. Raises HostError where the model could not be loaded."""
        hub = tuple(pool.env.items()) if form_of(pool.engine) is ModelForm.HUB else ()
        what = (pool.engine, pool.model, pool.args, pool.binary, pool.vram_mib, hub)
        if what not in self._calls:
            if len(self._calls) == READINGS_MAX:
                del self._calls[next(iter(self._calls))]
            self._calls[what] = SlowCall("read a model", self._reader(pool))
        try:
            return await self._calls[what].answer(self._timeout_s)
        except TimeoutError as error:
            problem = f"its disk did not answer for {self._timeout_s:g} s"
            raise HostError(f"model {pool.model}: {problem}") from error

    def reckon(self, pool: PoolConfig, reading: Reading, kind: DeviceKind) -> Footprint:
        """What it needs of a device of that kind."""
        demand = self._adapters[pool.engine].memory_demand(pool, kind)
        files = reading.files
        if files is not None and form_of(pool.engine) is ModelForm.HUB:
            demand = replace(demand, total_fraction=None)
        if form_of(pool.engine) is ModelForm.NAME:
            # Its server loads what it likes of it, and onto whichever device.
            items = (("model file", reading.file_bytes),) if reading.file_bytes else ()
            return reckon_footprint(pool, replace(demand, fixed=items), ())
        if files is None:
            return replace(reckon_footprint(pool, demand, ()), weights_bytes=reading.file_bytes)
        key = FootprintKey(
            engine=pool.engine,
            engine_version=reading.engine_version,
            model=pool.model,
            files_bytes=files.stamp.size_bytes,
            files_mtime_ns=files.stamp.mtime_ns,
            ctx=pool.ctx,
            slots=pool.slots,
            args=pool.args,
            device_kind=kind,
        )
        if demand.takes_all:
            taken = reckon_footprint(pool, demand, files.loaded)
            weights_bytes = sum(file.weights.total_bytes for file in files.loaded)
            return replace(taken, weights_bytes=weights_bytes)
        footprint = reckon_footprint(pool, demand, files.loaded, self._learned.recall(key))
        return replace(footprint, key=key)

    def _reader(self, pool: PoolConfig) -> Callable[[], Reading]:
        """What looks at the disk for a pool, in a thread."""
        adapter = self._adapters[pool.engine]
        # Which files there are is the same on every kind of device.
        demand = adapter.memory_demand(pool, "gpu")
        if form_of(pool.engine) is ModelForm.HUB:
            return _HubLook(pool, demand).read
        if demand.total_fraction is not None:
            return lambda: Reading(None)
        if form_of(pool.engine) is ModelForm.NAME:
            return partial(_look_if_there, pool)
        if pool.vram_mib is not None:
            return partial(_look_only, pool.model)
        reader = ModelReader(pool.model, demand.companions)
        executables = adapter.executables(pool)
        return lambda: Reading(reader.read(), identify_engine(executables))


class _HubLook:
    """Looks for a pool's model where its engine would."""

    def __init__(self, pool: PoolConfig, demand: MemoryDemand) -> None:
        self._pool = pool
        self._is_known = demand.is_hub_usual or is_path(pool.engine, pool.model)
        environment = build_environment(os.environ, {}, pool.env, CPU)
        self._reader = HubReader(pool.model, environment)

    def read(self) -> Reading:
        try:
            files = self._reader.read() if self._is_known else None
        except HostError:
            # Where the user has written the need, a folder that orchd cannot read is no obstacle;
            # one that is not there is.
            if self._pool.vram_mib is None or not os.path.exists(self._pool.model):  # noqa: PTH110
                raise
            return Reading(None)
        return Reading(files)


def _look_if_there(pool: PoolConfig) -> Reading:
    """A name is no file, and what is none here may still be a path where the server looks."""
    file = Path(pool.model)
    try:
        is_there = is_path(pool.engine, pool.model) and file.is_file()
        return Reading(None, file_bytes=file.stat().st_size if is_there else 0)
    except OSError:
        return Reading(None)


def _look_only(model: str) -> Reading:
    """Where the user has written the need, a head that orchd cannot read is no obstacle."""
    return Reading(None, file_bytes=measure_file(model))

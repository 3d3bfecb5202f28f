"""The footprint: the memory that one replica needs of its device, known before it starts.

``vram_mib`` is taken as it is; else what was measured at an earlier load of the same; else it is
reckoned from the model file and the engine's demand, item by item. On a GPU that is VRAM. On the
CPU it is RAM, where weights count whole: they are mapped from the file, and an engine whose weights
do not stay in memory reads them anew for every token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchd.config.model import PoolConfig
from orchd.engines.memory_demand import Companion, MemoryDemand
from orchd.runner.gguf import Weights
from orchd.runner.model_facts import ModelFacts
from orchd.runner.reckoning import Item, cache_bytes, reckon_items, weights_bytes
from orchd.runner.remembered import FootprintKey

MIB = 1024 * 1024
_DOUBTFUL_FACTOR = 2
_DOUBTFUL_BYTES = 2048 * MIB
"""A measurement of more than twice what is reckoned, and of that much more, caught another
program's memory."""

_GROWTH_SHARE = 20
"""A twentieth (a guess: what a driver allocates at the first long prompt is in no measurement)."""

_NOT_HERE = "for its model is not on this machine yet; write vram_mib to share the card with others"

Source = Literal["configured", "measured", "reckoned"]


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of memory, and how they were come by, for the user."""

    need_bytes: int
    """On any device; of an engine that claims a share of the card, the least that it needs."""
    reckoning: str
    items: tuple[Item, ...] = ()
    source: Source = "reckoned"
    total_fraction: float | None = None
    """The share of the card's whole memory that the engine claims, if it claims one."""
    weights_bytes: int = 0
    """Of the model's weights, those that lie on the device."""
    cache_bytes: int | None = None
    """Of the cache of all its slots; None where it was not reckoned."""
    key: FootprintKey | None = None
    """Under which a measurement of it is remembered; None where none is wanted."""

    def need_bytes_on(self, total_bytes: int) -> int:
        """What it needs of a card that has so much memory in all."""
        if self.total_fraction is None:
            return self.need_bytes
        return max(self.need_bytes, math.ceil(total_bytes * self.total_fraction))


@dataclass(frozen=True, slots=True)
class LoadedFile:
    """A file that the engine loads: a model, or what stands beside it."""

    weights: Weights
    facts: ModelFacts | None
    """None of a file that is all weights, as a projector is."""
    companion: Companion | None = None
    """None: it is the pool's model itself."""


def reckon_footprint(
    pool: PoolConfig,
    demand: MemoryDemand,
    files: Sequence[LoadedFile],
    learned_bytes: int | None = None,
) -> Footprint:
    """What a replica of this pool needs; ``files`` is empty where nobody has to ask them, or where
    they are not here yet."""
    if pool.vram_mib is not None:
        return Footprint(pool.vram_mib * MIB, "vram_mib of the configuration", source="configured")
    if demand.total_fraction is not None:
        share = f"{demand.total_fraction:.0%} of the whole card, "
        share += _NOT_HERE if demand.takes_all else "whatever the model"
        return Footprint(0, share, total_fraction=demand.total_fraction)
    own = sum(weights_bytes(f.facts, demand) for f in files if f.facts and not f.companion)
    items = [item for file in files for item in _file_items(file, demand)]
    fixed = demand.fixed if files else (*demand.unread, *demand.fixed)
    items += [Item(what, size_bytes) for what, size_bytes in fixed]
    need_bytes = sum(item.size_bytes for item in items)
    if learned_bytes is not None and _is_plausible(learned_bytes, need_bytes, own):
        return _footprint_of(learned_bytes, own)
    parts = [f"{item.what} {format_gib(item.size_bytes)}" for item in items]
    notes = [note for file in files if file.facts is not None for note in file.facts.notes]
    words = "; ".join(filter(None, (", ".join(parts), *notes, *demand.notes)))
    cache = sum(cache_bytes(f.facts, demand) for f in files if f.facts) if files else None
    return Footprint(need_bytes, words, tuple(items), weights_bytes=own, cache_bytes=cache)


def _footprint_of(learned_bytes: int, own: int) -> Footprint:
    """What was measured right after a load, and what an engine's pools grow by when it works."""
    growth_bytes = learned_bytes // _GROWTH_SHARE
    items = (Item("measured", learned_bytes), Item("room to grow", growth_bytes))
    words = f"{format_gib(learned_bytes)} measured at an earlier load, and a twentieth"
    return Footprint(learned_bytes + growth_bytes, words, items, "measured", weights_bytes=own)


def _file_items(file: LoadedFile, demand: MemoryDemand) -> Sequence[Item]:
    what = "weights" if file.companion is None else file.companion.what
    if file.facts is None:
        return (Item(what, file.weights.total_bytes),)
    if file.companion is None:
        return reckon_items(file.facts, demand)
    # Its layers and its cache have flags of their own, of which the defaults are reckoned.
    own = replace(demand, key_type="f16", value_type="f16", layers_on_device=None)
    items = reckon_items(file.facts, replace(own, expert_layers_on_host=0))
    return [Item(f"{what}: {item.what}", item.size_bytes) for item in items]


def _is_plausible(learned_bytes: int, need_bytes: int, floor_bytes: int) -> bool:
    """False for what cannot be this replica's: less than its weights, or another's as well."""
    most_bytes = max(need_bytes * _DOUBTFUL_FACTOR, need_bytes + _DOUBTFUL_BYTES)
    return floor_bytes <= learned_bytes <= most_bytes


def format_gib(size_bytes: int) -> str:
    """For people: ``9.1 GiB``."""
    return f"{size_bytes / (1024 * MIB):.1f} GiB"

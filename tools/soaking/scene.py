"""What every mishap finds when it is its turn: the world, the daemon, a client, the book."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from soaking.book import Book
from soaking.client import Client
from soaking.order import Beginnings
from soaking.pools import POOLS, Pool
from soaking.world import Stand, World
from tests.fakes.journal import JournalReader


@dataclass(slots=True)
class Scene:
    """One soak's."""

    stand: Stand
    client: Client
    book: Book
    journal: JournalReader
    beginnings: Beginnings = field(default_factory=Beginnings)
    """Since the last rest."""
    models: dict[str, str | None] = field(default_factory=dict)
    """By pool, the one that it must have; None where a client did not stay to hear."""
    loading: dict[str, asyncio.Lock] = field(default_factory=lambda: _locks())
    """By pool: who spoils its loads."""
    reloading: dict[str, asyncio.Lock] = field(default_factory=lambda: _locks())
    """By pool: who reloads it."""

    @property
    def world(self) -> World:
        return self.stand.world

    def expect_models_of_the_configuration(self) -> None:
        for pool in POOLS:
            self.models[pool.pool_id] = self.world.models[pool.pool_id][0]

    async def find_engine(self, pool: Pool, place: float) -> int | None:
        """The pid of one of the pool's engines, ``place`` (0 to 1) choosing; None without any."""
        replicas = (await self.client.pool(pool.pool_id))["replicas"]
        pids = [replica["pid"] for replica in replicas if replica["pid"] is not None]
        return int(pids[int(place * len(pids))]) if pids else None


def _locks() -> dict[str, asyncio.Lock]:
    return {pool.pool_id: asyncio.Lock() for pool in POOLS}

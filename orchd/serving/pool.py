"""What the service holds for one pool: its pure core, and the replicas that are open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Adapter, Endpoint
from orchd.serving.core import Core
from orchd.serving.dispatch import Slots
from orchd.serving.progress import Reading


@dataclass(frozen=True, slots=True)
class Replica:
    """An open replica: what it serves, where it answers, and the news of its end."""

    config: PoolConfig
    """The pool's, with the model that this replica has."""
    endpoint: Endpoint
    closed: asyncio.Future[None]
    """It is gone, or as good as."""
    idle: asyncio.Future[None]
    """It was retired and has finished its last task."""
    reading: Reading = field(default_factory=Reading)

    def note_work(self, slots: Slots) -> None:
        """It was retired, or gave a slot back: it may have finished its last task."""
        if slots.is_retired and slots.is_idle and not self.idle.done():
            self.idle.set_result(None)


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool, for as long as the daemon lives."""

    config: PoolConfig
    adapter: Adapter
    core: Core
    replicas: dict[str, Replica] = field(default_factory=dict)

"""What the service holds for one pool: its pure core, and the replicas that are open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Adapter, Endpoint
from orchd.serving.dispatch import Dispatcher
from orchd.serving.pace import Pace
from orchd.serving.task import Priority


@dataclass(frozen=True, slots=True)
class Replica:
    """An open replica: where it answers, and the news of its closing."""

    endpoint: Endpoint
    closed: asyncio.Future[None]


class Pool:
    """One pool, for as long as the daemon lives."""

    def __init__(self, config: PoolConfig, adapter: Adapter) -> None:
        self.config = config
        self.adapter = adapter
        self.dispatcher = Dispatcher(
            {Priority.INTERACTIVE: config.queue.interactive, Priority.BATCH: config.queue.batch}
        )
        self.pace = Pace()
        self.replicas: dict[str, Replica] = {}

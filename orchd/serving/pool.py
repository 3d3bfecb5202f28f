"""What the service holds for one pool: its pure core, and the replicas that are open."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Adapter, Endpoint
from orchd.serving.core import Core
from orchd.serving.progress import Reading


@dataclass(frozen=True, slots=True)
class Replica:
    """An open replica: where it answers, and the news of its closing."""

    endpoint: Endpoint
    closed: asyncio.Future[None]
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool, for as long as the daemon lives."""

    config: PoolConfig
    adapter: Adapter
    core: Core
    replicas: dict[str, Replica] = field(default_factory=dict)

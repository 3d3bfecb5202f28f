"""What joins the supervisor to the serving side: it is told as replicas begin and cease to serve.

No call waits; what has to be waited for is answered with.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Endpoint


class SlotGate(Protocol):
    """The serving side, as a replica sees it."""

    def open_slots(self, config: PoolConfig, endpoint: Endpoint) -> None:
        """A replica of the pool has produced a token, with the model that ``config`` names."""

    def retire_slots(self, pool_id: str, replica_id: str) -> Awaitable[None]:
        """It is given no more tasks; the answer is done once it has finished those it has."""

    def close_slots(self, pool_id: str, replica_id: str) -> tuple[str, ...]:
        """It is gone, or as good as; answers with the ids of the tasks that it has now."""


class PoolGate(SlotGate, Protocol):
    """The serving side, as a reload sees it."""

    def hold(self, pool_id: str) -> None:
        """Its slots are about to go and others to come: tasks are admitted and wait."""

    def resume(self, pool_id: str) -> None:
        """There are slots again, or none will come."""

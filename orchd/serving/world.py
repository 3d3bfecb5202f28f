"""What the serving side asks of the house around it: looks at what is known already, no IO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchd.config.model import PoolConfig
from orchd.serving.event_log import Encoder


@dataclass(frozen=True, slots=True)
class Outage:
    """Why no replica of a pool can serve."""

    reason: str
    """For the user."""
    retry_s: float | None
    """When one is tried again, where none is being tried now."""


@dataclass(frozen=True, slots=True)
class World:
    """The house, as one pool's core sees it."""

    encode: Encoder
    now_s: Callable[[], float]
    explain: Callable[[], Outage]
    """Of the pool, while no replica is open."""
    spare_vram_bytes: Callable[[str], int]
    """By replica id: free VRAM on its device, as last seen; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Runner:
    """Those who run the replicas, as the service sees them."""

    explain: Callable[[str], Outage]
    """By pool id, while it cannot serve."""
    spare_vram_bytes: Callable[[str], int]
    """By replica id: free VRAM on its device, as last seen."""
    config: Callable[[str], PoolConfig]
    """By pool id: how it is configured, with the model that is active."""
    report_stuck: Callable[[str, str, str], None]
    """Pool id, replica id, reason: the replica does not do as it should. Its slots are closed."""

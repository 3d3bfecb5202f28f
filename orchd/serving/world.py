"""What a pool's core asks of the house around it: each a look at what is known already, no IO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

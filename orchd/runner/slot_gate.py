"""The two callables that join the supervisor to the serving side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchd.engines.adapter import Endpoint


@dataclass(frozen=True, slots=True)
class SlotGate:
    """What is called as a replica begins and ceases to serve."""

    open_slots: Callable[[str, Endpoint, int], None]
    """Pool, where it answers, and how many."""
    close_slots: Callable[[str, str], tuple[str, ...]]
    """Pool and replica; answers with the ids of the tasks that it has now."""

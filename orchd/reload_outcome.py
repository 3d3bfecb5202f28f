"""How a reload of a pool ended: what the runner tells and the control plane answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Strategy(StrEnum):
    """How the new model comes to the place of the old one, by the names that clients see."""

    SIDE_BY_SIDE = "side-by-side"
    """The old model serves until the new one does."""
    IN_PLACE = "in-place"
    """The old model makes room for it first."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The pool serves the new model."""

    pool_id: str
    model_ref: str
    previous_model_ref: str
    strategy: Strategy
    took_ms: int


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """The old model is wanted again; ``message`` names the cause, and how the pool stands."""

    message: str


@dataclass(frozen=True, slots=True)
class ReloadBusy:
    """Nothing was done: the pool is at a reload already."""

    message: str


ReloadOutcome = Reloaded | ReloadFailed | ReloadBusy

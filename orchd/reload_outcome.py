"""How a reload of a pool ended: what the runner tells and the control plane answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["side-by-side", "in-place"]
"""The old model serves until the new one does, or makes room for it first."""


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

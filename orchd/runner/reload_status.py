"""How a reload stands, and what has come of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchd.runner.reload import Strategy


class Step(StrEnum):
    """Where a reload stands, in words for the user."""

    CHECKING = "checks the new model"
    LOADING = "loads the new model beside the old one"
    FINISHING = "lets the old model finish its tasks and stops it"
    REPLACING = "loads the new model in place of the old one"
    RETIRING = "serves the new model and lets the old one finish its tasks"
    ROLLING_BACK = "goes back to the old model"


@dataclass(frozen=True, slots=True)
class ReloadStatus:
    """A reload under way, as /health shows it."""

    new_model_ref: str
    strategy: Strategy | None
    """None until it is known what the new model needs."""
    step: Step
    so_far_s: float


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The new model serves, and the old one is gone."""

    pool_id: str
    model_ref: str
    previous_model_ref: str
    strategy: Strategy
    took_ms: int


@dataclass(frozen=True, slots=True)
class ReloadFailed:
    """The old model is the pool's as before; the message says why, and how that one stands."""

    message: str


@dataclass(frozen=True, slots=True)
class ReloadBusy:
    """The pool is being reloaded already."""

    message: str


Outcome = Reloaded | ReloadFailed | ReloadBusy

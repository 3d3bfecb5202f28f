"""How a reload stands, for /health and for whoever has to wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchd.reload_outcome import Strategy


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

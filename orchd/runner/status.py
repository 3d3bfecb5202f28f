"""How a replica stands, for /health and for refusals."""

from __future__ import annotations

from dataclasses import dataclass

from orchd.runner.lifecycle import State


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica as /health shows it."""

    replica_id: str
    device: str | None
    state: State
    pid: int | None
    restarts: int
    reason: str | None
    """Why it is not ready; None when it is."""
    engine_version: str | None


def explain(state: State, so_far_s: float, failure: str, delay_s: float) -> str | None:
    """Why a replica that is in its state for so long is not ready; None when it is.

    ``failure`` is its last one, ``delay_s`` the wait that followed from it.
    """
    match state:
        case State.READY:
            return None
        case State.BACKOFF:
            return f"{failure}; tries again in {max(delay_s - so_far_s, 0.0):.0f} s"
        case State.FAILING:
            return failure
        case _:
            return f"{state} for {so_far_s:.0f} s"

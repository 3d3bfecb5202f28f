"""What /health must never say."""

from __future__ import annotations

from typing import Any

import pytest
from soaking.book import Invariant
from soaking.watch import judge

REPLICA: dict[str, Any] = {
    "replica_id": "ordered-0",
    "state": "ready",
    "slots_busy": 1,
    "slots_total": 1,
    "reason": None,
}


def health(
    waiting: int = 0, pool_id: str = "ordered", priority: str = "interactive", **replica: Any
) -> dict[str, Any]:
    queue = {"interactive": 0, "batch": 0, priority: waiting}
    return {"pools": [{"pool_id": pool_id, "queue": queue, "replicas": [REPLICA | replica]}]}


@pytest.mark.parametrize(
    ("told", "broken"),
    [
        (health(), None),
        (health(waiting=6), None),
        (health(waiting=7), Invariant.ORDER),
        (health(waiting=6, priority="batch"), None),
        (health(waiting=7, priority="batch"), Invariant.ORDER),
        # Nothing is ever put back there.
        (health(waiting=8, pool_id="spared"), None),
        (health(waiting=9, pool_id="spared"), Invariant.ORDER),
        (health(slots_busy=2), Invariant.OWNED),
        (health(slots_busy=2, state="draining", reason="it is left"), None),
        (health(state="backoff", reason="it died"), None),
        (health(state="backoff"), Invariant.COMES_BACK),
        (health(reason="it died"), Invariant.COMES_BACK),
    ],
)
def test_what_health_tells(told: dict[str, Any], broken: Invariant | None) -> None:
    found = [invariant for invariant, faults in judge(told).items() if faults]
    assert found == ([] if broken is None else [broken])

"""What a rest makes of /health."""

from __future__ import annotations

from typing import Any

import pytest
from soaking.pools import LARGE_TAKES_MIB, TAKES_MIB
from soaking.rest import _list_busy, _list_misreserved, _list_unready

MIB = 1 << 20
CARD, OTHER = "GPU-0", "GPU-1"


def replica(replica_id: str = "pair-0", **more: Any) -> dict[str, Any]:
    plain = {"state": "ready", "reason": None, "slots_busy": 0, "device": CARD}
    return {"replica_id": replica_id, **plain, **more}


def pool(*replicas: dict[str, Any], pool_id: str = "pair", **more: Any) -> dict[str, Any]:
    queue = {"interactive": 0, "batch": 0}
    plain = {"pool_id": pool_id, "queue": queue, "reload": None, "replicas": list(replicas)}
    return plain | more


def health(*pools: dict[str, Any], **reserved_mib: int) -> dict[str, Any]:
    devices = [
        {"device": f"GPU-{name[1:]}", "reserved_bytes": mib * MIB}
        for name, mib in reserved_mib.items()
    ]
    return {"pools": list(pools), "devices": devices}


def test_what_is_ready_and_idle_is_at_rest() -> None:
    told = health(pool(replica(), replica("pair-1")))
    assert _list_unready(told) == [] == _list_busy(told)


@pytest.mark.parametrize(
    "state", ["loading", "backoff", "stopping", "a state that nobody knows of yet"]
)
def test_one_replica_that_is_not_ready_is_enough(state: str) -> None:
    told = health(pool(replica(), replica("pair-1", state=state, reason="it died")))
    assert _list_unready(told) == [f"pair-1 is {state}: it died"]


def test_a_reload_is_waited_for() -> None:
    assert _list_unready(health(pool(replica(), reload={"step": "loading"})))


@pytest.mark.parametrize(
    "busy",
    [
        pool(replica(), replica("pair-1", slots_busy=1)),
        pool(replica(slots_busy=-1), replica("pair-1", slots_busy=1)),
        pool(replica(), queue={"interactive": 0, "batch": 1}),
        pool(replica(), queue={"interactive": 1, "batch": 0}),
    ],
)
def test_a_slot_or_a_place_that_is_taken_is_told(busy: dict[str, Any]) -> None:
    (told,) = _list_busy(health(busy))
    assert told.startswith("pair: ")


@pytest.mark.parametrize(
    ("reserved", "is_right"),
    [
        ({"_0": TAKES_MIB + LARGE_TAKES_MIB}, True),
        ({"_0": TAKES_MIB + LARGE_TAKES_MIB + 200}, True),
        # One too many, one too few, and one where none is.
        ({"_0": 2 * TAKES_MIB + LARGE_TAKES_MIB}, False),
        ({"_0": LARGE_TAKES_MIB - 300}, False),
        ({"_0": TAKES_MIB}, False),
        ({"_0": TAKES_MIB + LARGE_TAKES_MIB, "_1": 1}, False),
    ],
)
def test_as_much_is_promised_as_is_needed(reserved: dict[str, int], is_right: bool) -> None:
    pools = [pool(replica()), pool(replica("within-0"), pool_id="within")]
    assert (_list_misreserved(health(*pools, **reserved)) == []) is is_right

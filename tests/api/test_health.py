"""How the daemon stands."""

from __future__ import annotations

import json

import pytest

from orchd.api.context import Context
from orchd.api.health import decide_status
from orchd.api.routes import ROUTES
from orchd.http1.messages import Head, Request, Response
from tests.fakes.house import FakeDevice, FakeReplica, FakeService, build_context

READY = FakeReplica()
LOADING = FakeReplica("loads since 3 s", "loading")
PLACING = FakeReplica("looks for a device", "placing")
AGAIN = FakeReplica("loads since 3 s", "loading", restarts=1, has_failed=True)
CRASHED = FakeReplica("crashed with code 1", "waiting", restarts=1, has_failed=True)
NO_FIT = FakeReplica("needs 9.1 GiB", "waiting")


@pytest.mark.parametrize(
    ("replicas", "status"),
    [
        ([], "starting"),
        ([READY], "ok"),
        ([READY, READY], "ok"),
        ([READY, LOADING], "degraded"),
        ([CRASHED, READY], "degraded"),
        ([LOADING], "starting"),
        ([PLACING], "starting"),
        ([LOADING, CRASHED], "starting"),
        ([AGAIN], "unavailable"),
        ([CRASHED, NO_FIT], "unavailable"),
    ],
)
def test_one_word_for_all(replicas: list[FakeReplica], status: str) -> None:
    assert decide_status(replicas) == status


def ask(context: Context) -> Response:
    (show,) = [route.target for route in ROUTES if route.pattern == "/health"]
    reply = show(context, Request(Head("GET", "/health", "", ()), {}, b""))
    assert isinstance(reply, Response)
    return reply


@pytest.mark.parametrize(
    ("replica", "status", "word"),
    [(READY, 200, "ok"), (LOADING, 503, "starting"), (CRASHED, 503, "unavailable")],
)
def test_what_it_shows(replica: FakeReplica, status: int, word: str) -> None:
    reply = ask(build_context(FakeService(), replica))
    assert reply.status == status
    document = json.loads(reply.body)
    assert document["status"] == word
    (pool,) = document["pools"]
    assert pool["pool_id"] == "chat"
    assert pool["queue"] == {"interactive": 2, "batch": 1}
    assert pool["model_state"] == "Active"
    (shown,) = pool["replicas"]
    assert shown["reason"] == replica.reason
    assert (shown["slots_busy"], shown["slots_total"]) == (0, 0)


def test_devices_are_shown_with_what_is_wrong_with_them() -> None:
    lost = FakeDevice(None, 1, None, None, None, None, "has fallen off the bus")
    context = build_context(FakeService(), READY, devices=(FakeDevice(), lost))
    document = json.loads(ask(context).body)
    assert document["devices_reason"] is None
    assert document["devices"] == [
        {
            "device": "GPU-0",
            "index": 0,
            "name": "NVIDIA Card",
            "total_bytes": 8,
            "free_bytes": 7,
            "utilization": 50,
            "reason": None,
        },
        {
            "device": None,
            "index": 1,
            "name": None,
            "total_bytes": None,
            "free_bytes": None,
            "utilization": None,
            "reason": "has fallen off the bus",
        },
    ]


def test_why_no_device_can_be_seen_is_shown_and_is_no_fault_of_a_pool_without() -> None:
    reply = ask(build_context(FakeService(), READY, devices_reason="no driver"))
    document = json.loads(reply.body)
    assert (reply.status, document["devices"], document["devices_reason"]) == (200, [], "no driver")

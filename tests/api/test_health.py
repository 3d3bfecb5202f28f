"""How the daemon stands."""

from __future__ import annotations

import json

import pytest

from orchd.api.health import decide_status
from orchd.api.routes import ROUTES
from orchd.http1.messages import Head, Request, Response
from tests.fakes.house import FakeReplica, FakeService, build_context

READY = FakeReplica()
LOADING = FakeReplica("loads since 3 s", "loading")
PLACING = FakeReplica("looks for a device", "placing")
AGAIN = FakeReplica("loads since 3 s", "loading", restarts=1)
CRASHED = FakeReplica("crashed with code 1", "waiting", restarts=1)
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


@pytest.mark.parametrize(
    ("replica", "status", "word"),
    [(READY, 200, "ok"), (LOADING, 503, "starting"), (CRASHED, 503, "unavailable")],
)
def test_what_it_shows(replica: FakeReplica, status: int, word: str) -> None:
    (show,) = [route.target for route in ROUTES if route.pattern == "/health"]
    context = build_context(FakeService(), replica)
    reply = show(context, Request(Head("GET", "/health", "", ()), {}, b""))
    assert isinstance(reply, Response) and reply.status == status
    document = json.loads(reply.body)
    assert document["status"] == word
    (pool,) = document["pools"]
    assert pool["pool_id"] == "chat"
    assert pool["queue"] == {"interactive": 2, "batch": 1}
    assert pool["model_state"] == "Active"
    (shown,) = pool["replicas"]
    assert shown["reason"] == replica.reason
    assert (shown["slots_busy"], shown["slots_total"]) == (0, 0)

"""How the daemon stands."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from orchd.api.context import Context
from orchd.api.health import decide_status
from orchd.api.routes import ROUTES
from orchd.http1.messages import Head, Request, Response
from orchd.runner.exit_status import ExitStatus
from tests.fakes.house import (
    DEATH,
    TASK_ID,
    FakeDevice,
    FakeReload,
    FakeReplica,
    FakeService,
    build_context,
)

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
    assert pool["tokens_streamed"] == {}, "it takes no tasks"


def test_while_a_pool_is_held_it_is_degraded_whatever_its_replicas_do() -> None:
    for replicas in ([], [CRASHED], [READY], [LOADING]):
        assert decide_status(replicas, is_held=True) == "degraded"


def test_a_reload_is_shown_and_what_it_brings_does_not_count() -> None:
    coming = replace(LOADING, replica_id="chat-1", model="/models/b.gguf", is_active=False)
    reload, retired = FakeReload(), ("/models/z.gguf",)
    context = build_context(FakeService(), READY, coming, under_way=reload, retired=retired)
    reply = ask(context)
    assert reply.status == 200
    document = json.loads(reply.body)
    (pool,) = document["pools"]
    assert (document["status"], pool["model"]) == ("ok", "/models/a.gguf")
    assert pool["retired"] == ["/models/z.gguf"]
    assert pool["reload"] == {
        "new_model_ref": "/models/b.gguf",
        "strategy": "side-by-side",
        "step": "loads",
        "so_far_s": 1.234,
    }
    assert [r["model"] for r in pool["replicas"]] == ["/models/a.gguf", "/models/b.gguf"]


def test_a_pool_that_is_held_admits() -> None:
    service = FakeService()
    service.held = True
    down = replace(LOADING, state="down")
    reply = ask(build_context(service, down, under_way=FakeReload(strategy="in-place")))
    assert (reply.status, json.loads(reply.body)["status"]) == (200, "degraded")


def test_a_daemon_that_stops_serves_nobody_though_its_replicas_are_ready() -> None:
    service = FakeService()
    service.is_stopping = True
    reply = ask(build_context(service, READY))
    assert (reply.status, json.loads(reply.body)["status"]) == (503, "unavailable")


def test_devices_are_shown_with_what_is_wrong_with_them() -> None:
    lost = FakeDevice(None, 1, None, None, None, 0, None, "has fallen off the bus")
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
            "reserved_bytes": 3,
            "utilization": 50,
            "reason": None,
        },
        {
            "device": None,
            "index": 1,
            "name": None,
            "total_bytes": None,
            "free_bytes": None,
            "reserved_bytes": 0,
            "utilization": None,
            "reason": "has fallen off the bus",
        },
    ]


@pytest.mark.parametrize(
    ("exit_status", "code", "signal"),
    [(ExitStatus(1, None), 1, None), (ExitStatus(None, "SIGKILL"), None, "SIGKILL"), (None,) * 3],
)
def test_the_last_deaths_of_a_pools_engines_are_shown(
    exit_status: ExitStatus | None, code: int | None, signal: str | None
) -> None:
    death = replace(DEATH, exit_status=exit_status)
    context = build_context(FakeService(), READY, incidents=(death, death))
    (pool,) = json.loads(ask(context).body)["pools"]
    assert len(pool["incidents"]) == 2
    assert pool["incidents"][0] == {
        "at": "2023-11-14T22:13:20.250+00:00",
        "replica_id": "chat-0",
        "device": "GPU-0",
        "pid": 4242,
        "cause": "was ended by SIGKILL: it said nothing",
        "exit_code": code,
        "signal": signal,
        "ready_s": 12.346,
        "tasks": [TASK_ID],
        "memory_before_bytes": 900,
        "memory_after_bytes": None,
        "last_lines": ["loading", "bye"],
    }


def test_why_no_device_can_be_seen_is_shown_and_is_no_fault_of_a_pool_without() -> None:
    reply = ask(build_context(FakeService(), READY, devices_reason="no driver"))
    document = json.loads(reply.body)
    assert (reply.status, document["devices"], document["devices_reason"]) == (200, [], "no driver")

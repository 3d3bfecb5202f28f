"""What the log tells of requests without the token."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest

from orchd.api.refused_logins import RefusedLogins
from orchd.http1.messages import Accepted, Head
from orchd.logs.throttle import SPAN_S
from tests.contracts.seen import SeenDoor
from tests.fakes.house import FakeReplica, FakeService, build_context
from tests.fakes.loop import FakeLoop


def head(peer: str, token: bytes) -> Head:
    return Head("GET", "/health", "", ((b"authorization", b"Bearer " + token),), peer)


def test_who_guesses_is_told_now_and_then_and_never_what(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = FakeLoop()
    logins = RefusedLogins(cast(asyncio.AbstractEventLoop, loop))
    door = SeenDoor(build_context(FakeService(), FakeReplica()), "s3cret", logins.note)
    with caplog.at_level(logging.DEBUG):
        for n in range(500):
            door.open(head(f"10.0.0.{n % 250}", b"guess-%d" % n))
        assert isinstance(door.open(head("127.0.0.1", b"s3cret")), Accepted)
        loop.pass_time(SPAN_S)
        door.open(Head("GET", "/health", "", (), "uid:1000"))
        logins.close()
    assert caplog.messages == [
        "refused a request without the right token peer=10.0.0.0",
        "refused 499 requests without the right token in the last 10 s,"
        " the last of them peer=10.0.0.249",
        "refused a request without the right token peer=uid:1000",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert loop.pending == []

"""The gate between the replicas of one model and the serving side."""

from __future__ import annotations

import pytest

from orchd.engines.adapter import Endpoint
from orchd.runner.held_gate import HeldGate
from tests.runner.pools import make_pool
from tests.runner.stage import IdleGate

POOL = make_pool()
FIRST, SECOND = Endpoint("chat-0", "127.0.0.1", 1, "k"), Endpoint("chat-1", "127.0.0.1", 2, "k")


def test_nothing_serves_before_it_is_opened_and_then_all_of_it() -> None:
    inner = IdleGate()
    gate = HeldGate(inner, is_open=False)
    gate.open_slots(POOL, FIRST)
    assert inner.opened == []
    gate.open()
    assert inner.opened == [FIRST]
    gate.open_slots(POOL, SECOND)
    gate.open()
    assert inner.opened == [FIRST, SECOND]


def test_what_is_gone_before_it_was_let_through_is_not_let_through() -> None:
    inner = IdleGate()
    gate = HeldGate(inner, is_open=False)
    gate.open_slots(POOL, FIRST)
    gate.open_slots(POOL, SECOND)
    assert gate.close_slots("chat", "chat-0") == ()
    gate.open()
    assert (inner.opened, inner.closed) == ([SECOND], [])


def test_once_shut_it_lets_nothing_more_through_and_closes_what_it_let() -> None:
    inner = IdleGate()
    gate = HeldGate(inner, is_open=True)
    gate.open_slots(POOL, FIRST)
    gate.shut()
    gate.open_slots(POOL, SECOND)
    assert inner.opened == [FIRST]
    assert gate.close_slots("chat", "chat-0") == inner.tasks
    assert gate.close_slots("chat", "chat-1") == ()
    assert inner.closed == ["chat-0"]


def test_what_never_served_is_not_retired() -> None:
    with pytest.raises(AssertionError, match="does not serve"):
        HeldGate(IdleGate(), is_open=False).retire_slots("chat", "chat-0")

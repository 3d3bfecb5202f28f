"""What is understood of /health: today's, an older one's, a newer one's, and no one's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.status.cells import Style
from orchd.status.standing import Standing, measure_rates, read_standing
from orchd.status.table import draw
from tests.status.health import health, pool, replica

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = ("status", "version", "pools", "devices", "devices_reason", "replicas", "queue", "incidents")
POOL_KEYS = (
    "pool_id",
    "model",
    "engine",
    "engine_version",
    "queue",
    "replicas",
    "reload",
    "tokens_streamed",
)


def told(body: dict[str, Any]) -> Standing:
    return read_standing(body)


def test_it_is_read_as_it_is() -> None:
    standing = told(health(pool(replica(slots_busy=1), tokens={"chat-0": 40})))
    assert (standing.status, standing.version) == ("ok", "0.1.0")
    assert standing.can_serve and standing.is_busy
    (only,) = standing.pools
    assert (only.pool_id, only.engine, only.notes) == ("chat", "llamacpp b11434", ())
    assert only.queued == (("interactive", 3), ("batch", 0))
    assert only.replicas[0].tokens_streamed == 40
    assert [gpu.label for gpu in standing.devices] == ["GPU 0", "GPU 1"]


@pytest.mark.parametrize(
    ("status", "can_serve"),
    [("ok", True), ("degraded", True), ("starting", False), ("unavailable", False), ("", False)],
)
def test_who_can_serve(status: str, can_serve: bool) -> None:
    assert told({"status": status}).can_serve is can_serve


def test_a_reload_and_the_last_death_are_notes() -> None:
    reload = {"new_model_ref": "/m/b.gguf", "strategy": "side-by-side", "step": "loading"}
    death = {"at": "2026-01-31T03:04:05.678+00:00", "replica_id": "chat-0", "cause": "exited\x1b"}
    (only,) = told(health(pool(reload=reload, retired=["/m/a.gguf"], incidents=[{}, death]))).pools
    assert only.notes == (
        "is being reloaded to /m/b.gguf (side-by-side, loading)",
        "last death, 2026-01-31 03:04:05 UTC: chat-0 exited\\x1b",
    )
    (only,) = told(health(pool(reload=None, incidents=[]))).pools
    assert only.notes == ()


@given(
    st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(KEYS, JSON)
        | {"pools": st.lists(st.dictionaries(st.sampled_from(POOL_KEYS), JSON, max_size=4))},
    ),
    st.none() | st.integers(1, 100),
)
def test_whatever_is_answered_can_be_shown(body: dict[str, Any], columns: int | None) -> None:
    standing = told(body)
    lines = draw(standing, measure_rates(standing, standing, 1.0), "a:1", Style(columns))
    for line in lines:
        assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)


# -- how fast it is ----------------------------------------------------------------------------


def at(tokens: int | None, *, busy: int = 1) -> Standing:
    counts = {} if tokens is None else {"chat-0": tokens}
    return told(health(pool(replica(slots_busy=busy), tokens=counts)))


@pytest.mark.parametrize(
    ("before", "after", "rate"),
    [
        (at(100), at(150), 25.0),
        (at(100), at(100), 0.0),
        (at(100), at(8), 4.0),  # started afresh between the two
        (at(None), at(8), None),
        (at(100), at(None), None),
        (None, at(8), None),
        (None, at(8, busy=0), 0.0),  # nobody is at work
    ],
)
def test_two_looks_tell_how_fast(
    before: Standing | None, after: Standing, rate: float | None
) -> None:
    assert measure_rates(before, after, 2.0).get("chat-0") == rate

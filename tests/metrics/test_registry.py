"""Counts go on, never sink, and go with their replica."""

from __future__ import annotations

from orchd.errors import Code
from orchd.metrics.registry import Registry


def build(*replicas: str) -> tuple[Registry, set[str]]:
    """A registry, and the replicas that there are, to be changed."""
    there = set(replicas)
    return Registry(("llamacpp",), lambda pool_id: there), there


def test_a_replica_has_counts_before_anything_happened() -> None:
    registry, _ = build("chat-0")
    counts = registry.of("chat", "chat-0")
    assert (counts.enqueued["batch"], counts.tokens_in, counts.tokens_out) == (0, 0, 0)


def test_tasks_are_counted_where_they_went() -> None:
    registry, _ = build("chat-0")
    for replica_id in ("chat-0", "chat-0", None):
        registry.count_enqueued("chat", replica_id, "batch")
    registry.count_enqueued("chat", None, "interactive")
    registry.count_enqueued("code", None, "batch")
    assert registry.of("chat", "chat-0").enqueued == {"batch": 2}
    assert registry.of("chat", "unassigned").enqueued == {"batch": 1, "interactive": 1}
    assert registry.of("code", "unassigned").enqueued == {"batch": 1}


def test_tokens_are_summed_up() -> None:
    registry, _ = build("chat-0")
    registry.count_ended("chat", "chat-0", 5, 7)
    registry.count_ended("chat", "chat-0", 0, 2)
    registry.count_ended("chat", None, 0, 0)
    counts = registry.of("chat", "chat-0")
    assert (counts.tokens_in, counts.tokens_out) == (5, 9)


def test_refusals_are_counted_by_engine_and_code() -> None:
    registry, _ = build()
    before = registry.rejected()
    assert set(before.values()) == {0}
    assert {engine for engine, _ in before} == {"none", "llamacpp"}
    registry.count_rejected("llamacpp", Code.ADMISSION_REJECT)
    registry.count_rejected(None, Code.INVALID_PARAMS)
    registry.count_rejected(None, Code.INVALID_PARAMS)
    registry.count_rejected("llamacpp", Code.INTERNAL)
    changed = registry.rejected().items() - before.items()
    assert changed == {
        (("llamacpp", "ADMISSION_REJECT"), 1),
        (("none", "INVALID_PARAMS"), 2),
        (("llamacpp", "INTERNAL"), 1),
    }


def test_there_are_never_more_counts_than_replicas_and_one() -> None:
    registry, there = build()
    for number in range(1000):
        there.clear()
        there.add(f"chat-{number}")
        registry.count_enqueued("chat", f"chat-{number}", "batch")
        registry.count_enqueued("chat", None, "batch")
        # A task may end after its replica is gone for good.
        registry.count_ended("chat", f"chat-{number - 1}", 1, 1)
        assert len(registry._replicas) <= 3
    assert registry.of("chat", "unassigned").enqueued == {"batch": 1000}


def test_counts_of_a_replica_that_is_there_outlive_those_of_others() -> None:
    registry, there = build("chat-0", "chat-1")
    for replica_id in ("chat-0", "chat-1"):
        registry.count_ended("chat", replica_id, 1, 1)
    there.remove("chat-1")
    registry.count_enqueued("chat", None, "batch")
    assert registry.of("chat", "chat-0").tokens_in == 1
    assert registry.of("chat", "chat-1").tokens_in == 0

"""How long ended tasks are kept."""

from __future__ import annotations

from orchd.serving.retention import Retention


def test_a_task_is_forgotten_when_its_time_is_over() -> None:
    kept = Retention(retain_s=10, budget_bytes=100)
    kept.keep("a", 1, now_s=0)
    kept.keep("b", 1, now_s=3)
    assert (kept.expire(9.9), kept.next_expiry_s) == ([], 10)
    assert (kept.expire(10), kept.next_expiry_s) == (["a"], 13)
    assert (kept.expire(99), kept.next_expiry_s) == (["b"], None)
    assert kept.expire(99) == []


def test_the_oldest_make_room_when_all_together_are_too_large() -> None:
    kept = Retention(retain_s=10, budget_bytes=100)
    for name in ("a", "b", "c"):
        kept.keep(name, 40, now_s=0)
    assert kept.expire(0) == ["a"]
    kept.keep("d", 20, now_s=0)
    assert kept.expire(0) == []
    kept.keep("e", 81, now_s=0)
    assert kept.expire(0) == ["b", "c", "d"]


def test_nothing_kept_is_nothing_to_forget() -> None:
    kept = Retention(retain_s=10, budget_bytes=100)
    assert (kept.expire(0), kept.next_expiry_s) == ([], None)


def test_one_that_is_too_large_by_itself_is_not_kept() -> None:
    kept = Retention(retain_s=10, budget_bytes=100)
    kept.keep("a", 101, now_s=0)
    assert kept.expire(0) == ["a"]
    kept.keep("b", 100, now_s=0)
    assert kept.expire(0) == []

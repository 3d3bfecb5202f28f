"""When to tell of what repeats."""

from __future__ import annotations

from orchd.logs.throttle import Throttle


def test_the_first_is_told_at_once() -> None:
    tally = Throttle(span_s=10)
    assert tally.due_s is None
    assert tally.note(100) == 1
    assert tally.due_s is None


def test_those_behind_it_are_told_together_when_the_span_is_over() -> None:
    tally = Throttle(span_s=10)
    tally.note(100)
    assert [tally.note(101), tally.note(109.9)] == [0, 0]
    assert (tally.due_s, tally.take_rest(110), tally.due_s) == (110, 2, None)
    assert tally.take_rest(120) == 0


def test_one_that_comes_when_the_span_is_over_is_told_with_them() -> None:
    tally = Throttle(span_s=10)
    tally.note(100)
    tally.note(105)
    assert tally.note(110) == 2
    assert tally.note(119) == 0


def test_after_a_quiet_span_the_next_is_a_first_one() -> None:
    tally = Throttle(span_s=10)
    assert [tally.note(0), tally.note(10), tally.note(1000)] == [1, 1, 1]

"""Backoff: doubling, bounded, and afresh after enough health."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.restart import RestartPolicy


def delays_s(ready_for_s: list[float]) -> list[float]:
    policy, delays = RestartPolicy(), []
    for span_s in ready_for_s:
        policy = policy.after_failure(span_s)
        delays.append(policy.delay_s)
    return delays


def test_it_doubles_from_one_second_to_sixty() -> None:
    assert delays_s([0.0] * 9) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_sixty_seconds_of_health_start_it_afresh_and_less_do_not() -> None:
    assert delays_s([0, 0, 0, 59.9, 60, 0]) == [1, 2, 4, 8, 1, 2]


def test_a_replica_that_never_failed_waits_no_longer_than_the_first_time() -> None:
    assert RestartPolicy().delay_s == 1


def test_the_spans_can_be_given() -> None:
    policy = RestartPolicy(first_delay_s=0.5, longest_delay_s=0.7, healthy_after_s=3)
    once = policy.after_failure(0)
    assert (once.delay_s, once.after_failure(2.9).delay_s) == (0.5, 0.7)
    assert once.after_failure(0).after_failure(3) == once


@given(st.lists(st.floats(0, 1e6), max_size=200))
def test_a_delay_is_always_between_one_second_and_sixty(ready_for_s: list[float]) -> None:
    assert all(1 <= delay_s <= 60 for delay_s in delays_s(ready_for_s))


def test_a_million_failures_cost_nothing() -> None:
    assert RestartPolicy(failures=10**6).after_failure(0).delay_s == 60

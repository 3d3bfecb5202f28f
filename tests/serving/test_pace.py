"""What is reckoned from the measured service time."""

from __future__ import annotations

import pytest

from orchd.serving.pace import UNMEASURED_BACKOFF_S, Pace


def make_pace(*service_s: float) -> Pace:
    pace = Pace()
    for span_s in service_s:
        pace.observe(span_s)
    return pace


def test_nothing_is_known_before_the_first_measurement() -> None:
    assert make_pace().predict_start_s(3, 4, []) is None
    assert make_pace().backoff_s(0, 4, []) == UNMEASURED_BACKOFF_S


def test_nothing_is_predicted_without_slots() -> None:
    assert make_pace(2.0).predict_start_s(0, 0, []) is None
    assert make_pace(2.0).backoff_s(0, 0, []) == UNMEASURED_BACKOFF_S


def test_slots_work_the_queue_off_together() -> None:
    assert make_pace(2.0).predict_start_s(0, 1, []) == 2.0
    assert make_pace(2.0).predict_start_s(0, 4, []) == 0.5
    assert make_pace(2.0).predict_start_s(7, 4, []) == 4.0
    assert make_pace(2.0).backoff_s(0, 4, []) == 0.5
    assert make_pace(2.0).backoff_s(9, 4, []) == 5.0


def test_the_mean_follows_the_newest() -> None:
    assert make_pace(1.0, 2.0).predict_start_s(0, 1, []) == pytest.approx(1.2)
    assert make_pace(1.0, *[5.0] * 50).predict_start_s(0, 1, []) == pytest.approx(5.0, rel=0.01)


def test_tasks_that_take_longer_than_those_of_late_count_as_long_as_they_are_held() -> None:
    """Else a short one just before would promise a place at once, for as long as they run."""
    pace = make_pace(0.004)
    assert pace.backoff_s(0, 1, [3.0]) == 3.0
    assert pace.predict_start_s(1, 2, [2.0, 4.0]) == 3.0
    assert pace.backoff_s(0, 2, [0.001, 0.002]) == 0.002
    assert make_pace().predict_start_s(0, 1, [9.0]) is None, "a span that goes on is no measurement"
    assert make_pace().backoff_s(0, 1, [9.0]) == 9.0
    assert make_pace().backoff_s(0, 4, [2.0]) == UNMEASURED_BACKOFF_S

"""Until when each phase may last, and what a reader that takes nothing changes about that."""

from __future__ import annotations

import pytest

from orchd.http1.deadlines import Deadline, Expiry, Headway, Phase, plan_deadline
from orchd.http1.limits import Limits

LIMITS = Limits(
    head_timeout_s=10, body_timeout_s=30, keep_alive_s=75, linger_s=2, reader_stall_s=120
)
SINCE_S = 1000.0


def plan(
    phase: Phase, now_s: float = SINCE_S, unsent_bytes: int = 0, headway: Headway | None = None
) -> Deadline | None:
    headway = headway or Headway(SINCE_S)
    return plan_deadline(phase, SINCE_S, headway, unsent_bytes, now_s, LIMITS)


@pytest.mark.parametrize(
    ("phase", "deadline"),
    [
        (Phase.OPENED, Deadline(1010, Expiry.CLOSE)),
        (Phase.HEAD, Deadline(1010, Expiry.REFUSE)),
        (Phase.BODY, Deadline(1030, Expiry.REFUSE)),
        (Phase.IDLE, Deadline(1075, Expiry.CLOSE)),
        (Phase.LINGERING, Deadline(1002, Expiry.CLOSE)),
        (Phase.PENDING, None),
        (Phase.STREAMING, None),
        (Phase.CLOSED, None),
    ],
)
@pytest.mark.parametrize("now_s", [SINCE_S, SINCE_S + 5000])
def test_each_phase_has_its_own(phase: Phase, deadline: Deadline | None, now_s: float) -> None:
    assert plan(phase, now_s) == deadline


@pytest.mark.parametrize("phase", [Phase.IDLE, Phase.LINGERING])
def test_what_was_read_late_gives_the_client_its_time_from_then(phase: Phase) -> None:
    headway = Headway(SINCE_S)
    headway.note_write(10, 0, SINCE_S)
    headway.look(0, SINCE_S + 50)
    on_time, late = plan(phase), plan(phase, headway=headway)
    assert on_time is not None and late is not None
    assert late.at_s == on_time.at_s + 50


@pytest.mark.parametrize("phase", Phase)
def test_while_a_reply_is_under_way_only_a_stall_ends_it(phase: Phase) -> None:
    headway = Headway(SINCE_S)
    headway.note_write(100, 0, SINCE_S)
    now_s = SINCE_S
    while now_s < SINCE_S + 120:
        headway.look(100, now_s)
        deadline = plan(phase, now_s, 100, headway)
        assert deadline is not None
        assert now_s < deadline.at_s <= now_s + 30, "looked at too late, or again and again"
        if deadline.at_s < SINCE_S + 120:
            assert deadline.expiry is Expiry.LOOK
        now_s = deadline.at_s
    assert plan(phase, now_s, 100, headway) == Deadline(SINCE_S + 120, Expiry.ABORT)


def test_every_byte_that_is_taken_puts_the_stall_off() -> None:
    headway = Headway(SINCE_S)
    headway.note_write(100, 0, SINCE_S)
    for taken_bytes in range(1, 100):
        now_s = SINCE_S + taken_bytes * 100
        headway.look(100 - taken_bytes, now_s)
        deadline = plan(Phase.STREAMING, now_s, 100 - taken_bytes, headway)
        assert deadline == Deadline(now_s + 30, Expiry.LOOK)


def test_more_that_is_written_is_no_headway() -> None:
    headway = Headway(SINCE_S)
    headway.note_write(100, 0, SINCE_S)
    for minute in range(1, 4):
        headway.note_write(50, 50 + minute * 50, SINCE_S + minute * 40)
        headway.look(100 + minute * 50, SINCE_S + minute * 40)
    assert headway.at_s == SINCE_S
    deadline = plan(Phase.STREAMING, SINCE_S + 120, 250, headway)
    assert deadline == Deadline(SINCE_S + 120, Expiry.ABORT)


def test_a_stall_begins_with_what_is_written_not_with_the_silence_before() -> None:
    headway = Headway(SINCE_S)
    headway.note_write(100, 0, SINCE_S)
    headway.look(0, SINCE_S)
    headway.note_write(100, 0, SINCE_S + 5000)
    headway.look(100, SINCE_S + 5000)
    deadline = plan(Phase.STREAMING, SINCE_S + 5000, 100, headway)
    assert deadline == Deadline(SINCE_S + 5030, Expiry.LOOK)


def test_one_that_took_all_between_two_looks_has_not_stalled() -> None:
    headway = Headway(SINCE_S)
    headway.note_write(100, 0, SINCE_S)
    headway.note_write(100, 0, SINCE_S + 119)
    headway.look(100, SINCE_S + 121)
    assert headway.at_s == SINCE_S + 119

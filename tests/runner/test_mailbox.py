"""One event at a time, to its end."""

from __future__ import annotations

import pytest

from orchd.runner.lifecycle import Event
from orchd.runner.mailbox import Mailbox


def test_what_an_event_brings_about_comes_after_it() -> None:
    seen: list[str] = []

    def take(event: Event) -> None:
        seen.append(f"{event.name} begins")
        if event is Event.START:
            mailbox.post(Event.PLACED)
            mailbox.post(Event.PROVEN)
        seen.append(f"{event.name} ends")

    mailbox = Mailbox(take, lambda: seen.append("empty"))
    mailbox.post(Event.START)
    mailbox.post(Event.STOP)
    names = ["START", "PLACED", "PROVEN"]
    taken = [f"{name} {when}" for name in names for when in ("begins", "ends")]
    assert seen == [*taken, "empty", "STOP begins", "STOP ends", "empty"]


def test_one_that_cannot_be_taken_does_not_stop_those_after_it() -> None:
    taken: list[Event] = []

    def take(event: Event) -> None:
        taken.append(event)
        if event is Event.START:
            raise AssertionError("cannot happen")

    mailbox = Mailbox(take, lambda: None)
    with pytest.raises(AssertionError):
        mailbox.post(Event.START)
    mailbox.post(Event.STOP)
    assert taken == [Event.START, Event.STOP]

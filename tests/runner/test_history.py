"""What is kept of a replica's tries, and how a death is put in words."""

from __future__ import annotations

import pytest

from orchd.runner.exit_status import ExitStatus
from orchd.runner.history import History
from orchd.runner.incident import KEPT, Incident, IncidentLog, describe_death
from orchd.runner.restart import RestartPolicy

CRASH = ExitStatus.of(1)


def death(cause: str = "exited with code 1: no memory", pid: int = 7) -> Incident:
    return Incident(1.5, "chat-0", "GPU-0", pid, cause, CRASH, ("no memory",), 100)


def test_a_death_gets_how_long_it_was_ready_and_the_tasks_that_it_had() -> None:
    history = History(RestartPolicy())
    history.begin()
    history.become_ready(10)
    history.cease(("a", "b"), 25)
    told = history.end(death())
    assert told is not None
    assert (told.ready_s, told.tasks, told.cause) == (15, ("a", "b"), death().cause)
    assert history.failure == death().cause


def test_a_second_try_has_nothing_of_the_first() -> None:
    history = History(RestartPolicy())
    history.begin()
    history.become_ready(10)
    history.cease(("a",), 25)
    history.end(death())
    history.plan_retry()
    history.begin()
    told = history.end(death())
    assert told is not None
    assert (told.ready_s, told.tasks, history.restarts) == (0, (), 1)


def test_what_condemned_it_stands_before_what_failed_earlier() -> None:
    history = History(RestartPolicy())
    history.fail("no room")
    assert history.failure == "no room"
    history.condemn("hangs")
    assert history.failure == "hangs"
    history.end(None)
    assert history.failure == ""


def test_being_ready_forgets_the_failure() -> None:
    history = History(RestartPolicy())
    history.fail("no room")
    history.become_ready(0)
    assert history.failure == ""


def test_the_wait_doubles_and_begins_afresh_after_health() -> None:
    history = History(RestartPolicy(healthy_after_s=60))
    assert [history.plan_retry() for _ in range(3)] == [1, 2, 4]
    history.become_ready(100)
    history.cease((), 160)
    assert history.plan_retry() == 1
    assert history.plan_retry() == 2, "the health counts once"


@pytest.mark.parametrize(
    ("returncode", "verdict", "last_words", "cause"),
    [
        (1, "", "no memory", "exited with code 1: no memory"),
        (-11, "", "", "was ended by SIGSEGV: it said nothing"),
        (-9, "hangs", "", "hangs"),
        (-15, "hangs", "loading", "hangs; its last words: loading"),
        (1, "hung up", "no memory", "hung up; then exited with code 1: no memory"),
        (-6, "hung up", "", "hung up; then was ended by SIGABRT: it said nothing"),
        (None, "hangs", "loading", "hangs; its process cannot be killed"),
        (None, "", "", "was to stop; its process cannot be killed"),
    ],
)
def test_a_death_in_words(
    returncode: int | None, verdict: str, last_words: str, cause: str
) -> None:
    status = None if returncode is None else ExitStatus.of(returncode)
    assert describe_death(status, verdict, last_words) == cause


@pytest.mark.parametrize(
    ("returncode", "code", "signal"),
    [(0, 0, None), (3, 3, None), (-9, None, "SIGKILL"), (-40, None, "signal 40")],
)
def test_an_exit_has_a_code_or_a_signal(
    returncode: int, code: int | None, signal: str | None
) -> None:
    status = ExitStatus.of(returncode)
    assert (status.code, status.signal) == (code, signal)


def test_the_last_few_deaths_are_kept() -> None:
    log = IncidentLog()
    for pid in range(KEPT + 2):
        log.add(death(pid=pid))
    assert [kept.pid for kept in log.all()] == list(range(2, KEPT + 2))


def test_what_is_known_later_goes_to_its_own_death() -> None:
    log = IncidentLog()
    first, second = log.add(death()), log.add(death())  # equal ones
    second(40)
    assert [kept.memory_after_bytes for kept in log.all()] == [None, 40]
    first(None)
    for _ in range(KEPT):
        log.add(death())
    first(30)  # forgotten by now
    assert [kept.memory_after_bytes for kept in log.all()] == [None] * KEPT

"""What the engines' journal tells of who went before whom, and how often."""

from __future__ import annotations

from dataclasses import replace

import pytest
from soaking.order import Beginnings, list_beginning_faults, list_order_faults
from soaking.pools import BY_ID
from soaking.tasks import Seen, Task

from tests.fakes.journal import Entry

END = [Seen("0", "end", "{}")]


def task(
    number: int, posted_s: float, admitted_s: float | None, priority: str = "interactive"
) -> Task:
    pool = BY_ID["ordered"]
    return Task(
        number, pool, priority, 1, "reads", posted_s=posted_s, admitted_s=admitted_s, story=END
    )


def test_the_journal_is_read_by_marker() -> None:
    lines = [
        Entry(1.0, 11, "begin #7 [tokens 1]"),
        Entry(1.5, 11, "end #7 [tokens 1] 1"),
        Entry(2.0, 12, "begin #-3 [tokens 1]"),
        Entry(3.0, 13, "begin #7 [tokens 1]"),
        Entry(4.0, 13, "begin a stranger's"),
        Entry(5.0, 13, "flooded"),
    ]
    beginnings = Beginnings()
    assert beginnings.note(lines) == []
    assert beginnings.at_s == {"#7": [1.0, 3.0], "#-3": [2.0]}
    assert beginnings.note([lines[2]]) == []
    assert beginnings.note([lines[0]]) == ["task #7 was begun 3 times"]


@pytest.mark.parametrize(
    ("admitted_s", "times", "fault"),
    [
        (1.0, [2.0], None),
        (1.0, [2.0, 3.0], None),
        (1.0, [], "no engine has begun it"),
        (None, [], None),
        (None, [2.0], "refused, and begun"),
    ],
)
def test_how_often_a_task_begins(
    admitted_s: float | None, times: list[float], fault: str | None
) -> None:
    one = task(1, 0.5, admitted_s)
    told = list(list_beginning_faults({"#1": one}, {"#1": times}))
    assert [fault in text for text in told] == [True] if fault else told == []


@pytest.mark.parametrize(
    "one",
    [
        replace(task(1, 0.5, 1.0), story=[Seen("0", "error", '{"code": "CANCELLED"}')]),
        replace(task(1, 0.5, 1.0), pool=BY_ID["foreign"]),
    ],
)
def test_whoever_did_not_have_to_begin_or_keeps_no_journal(one: Task) -> None:
    assert list(list_beginning_faults({"#1": one}, {})) == []


def order(*tasks: tuple[Task, float]) -> list[str]:
    beginnings = {one.marker: [at_s] for one, at_s in tasks}
    return list(list_order_faults([one for one, _ in tasks], beginnings))


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_first_in_first_out(priority: str) -> None:
    first, second = task(1, 1.0, 1.1, priority), task(2, 1.2, 1.3, priority)
    assert order((first, 5.0), (second, 6.0)) == []
    assert order((second, 5.0), (first, 6.0)) == [f"{priority} #2 went before #1"]
    # In whichever order they are known.
    assert order((second, 6.0), (first, 5.0)) == []


def test_of_two_that_came_at_once_either_may_go_first() -> None:
    first, second = task(1, 1.0, 1.3), task(2, 1.2, 1.4)
    assert order((second, 5.0), (first, 6.0)) == []


def test_whoever_comes_last_may_not_pass_one_long_before_it() -> None:
    tasks = [task(1, 1.0, 1.1), task(2, 1.05, 1.5), task(3, 1.2, 1.3)]
    assert order((tasks[2], 5.0), (tasks[1], 6.0), (tasks[0], 7.0)) == [
        "interactive #3 went before #1"
    ]


def test_interactive_goes_before_batch() -> None:
    running = task(1, 0.1, 0.2)
    waiting = task(2, 1.0, 1.1)
    batch = task(3, 0.5, 0.6, "batch")
    assert order((running, 2.0), (waiting, 3.0), (batch, 4.0)) == []
    assert order((running, 2.0), (batch, 3.0), (waiting, 4.0)) == [
        "batch #3 went before interactive #2"
    ]
    # It may have come when the slot was granted already.
    assert order((running, 1.05), (batch, 3.0), (waiting, 4.0)) == []


def test_a_task_that_never_began_is_in_nobodys_way() -> None:
    never, other = task(1, 1.0, 1.1), task(2, 1.2, 1.3)
    assert list(list_order_faults([never, other], {"#2": [5.0]})) == []

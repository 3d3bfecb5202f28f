"""The one line about each task at its end: its words and its figures."""

from __future__ import annotations

import pytest

from orchd.errors import Code
from orchd.serving.account import Accounts
from orchd.serving.task import Ended, Failed, Priority, Task
from tests.serving.samples import make_task

ENDED = Ended(tokens_in=5, tokens_out=20, decode_ms=400, finish_reason="length")
FAILED = Failed(Code.CANCELLED, "a message that may hold anything", "llamacpp")


class Book:
    """Accounts on a clock that the test moves, with one task."""

    def __init__(self, task: Task | None = None) -> None:
        self.now_s = 100.0
        self.accounts = Accounts(lambda: self.now_s)
        self.task = task or make_task(task_id="t1")
        self.accounts.open(self.task)

    def grant(self, after_s: float, replica_id: str = "chat-0") -> None:
        self.now_s += after_s
        self.accounts.note_grant(self.task, replica_id)

    def write(self, after_s: float) -> None:
        self.now_s += after_s
        self.accounts.note_text(self.task)
        self.task.tokens_logged += 1

    def end(self, event: Ended | Failed = ENDED, after_s: float = 0.0) -> str:
        """What the log says."""
        self.now_s += after_s
        report = self.accounts.close(self.task, event)
        template, *figures = report.line
        return template % tuple(figures)


def test_a_task_that_ended_well() -> None:
    book = Book()
    book.grant(1.5)
    book.write(0.25)
    book.write(4.0)
    assert book.end() == (
        "ended a task task=t1 pool=chat replica=chat-0 priority=interactive outcome=end"
        " finish=length waited_s=1.5 ttft_s=1.75 tokens_in=5 tokens_out=20 rate=50.0"
    )


def test_a_task_that_never_had_a_slot_has_waited_to_its_end() -> None:
    book = Book(make_task(Priority.BATCH, task_id="t2"))
    assert book.end(FAILED, after_s=3.0004) == (
        "ended a task task=t2 pool=chat replica=- priority=batch outcome=CANCELLED"
        " finish=- waited_s=3.0 ttft_s=- tokens_in=- tokens_out=0 rate=-"
    )


def test_a_task_that_was_cut_tells_of_the_pieces_that_it_wrote() -> None:
    book = Book()
    book.grant(0.0)
    for _ in range(3):
        book.write(0.5)
    line = book.end(FAILED)
    assert "outcome=CANCELLED finish=- waited_s=0.0 ttft_s=0.5" in line
    assert line.endswith("tokens_in=- tokens_out=3 rate=-")
    assert "anything" not in line


def test_a_second_chance_counts_from_the_first() -> None:
    book = Book()
    book.grant(1.0, "chat-0")
    book.grant(5.0, "chat-1")
    book.write(1.0)
    line = book.end()
    assert "replica=chat-1" in line
    assert "waited_s=1.0 ttft_s=7.0" in line


@pytest.mark.parametrize("decode_ms", [0, -1])
def test_what_took_no_time_has_no_rate(decode_ms: int) -> None:
    assert Book().end(Ended(5, 1, decode_ms, "stop")).endswith("tokens_out=1 rate=-")


def test_no_account_is_left() -> None:
    book = Book()
    book.end()
    assert book.accounts._accounts == {}

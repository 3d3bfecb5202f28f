"""Until when a task may go without progress."""

from __future__ import annotations

from orchd.engines.adapter import PromptProgress
from orchd.serving.progress import Progress, Reading

STALL_S = 60.0


def deadline_s(progress: Progress) -> float:
    return progress.deadline_s(STALL_S)


def test_a_task_is_given_its_time_from_when_it_was_sent() -> None:
    assert deadline_s(Progress(100.0, Reading())) == 160.0


def test_a_token_gives_it_anew() -> None:
    progress = Progress(100.0, Reading())
    progress.token_s = 110.0
    assert deadline_s(progress) == 170.0


def test_a_prompt_that_is_read_further_gives_it_anew_and_a_repetition_does_not() -> None:
    progress = Progress(100.0, Reading())
    for now_s, read, expected_s in (
        (110.0, 0, 170.0),
        (120.0, 256, 180.0),
        (130.0, 256, 180.0),
        (140.0, 100, 180.0),
        (150.0, 1000, 210.0),
        (190.0, 1000, 210.0),
    ):
        progress.note_prompt(PromptProgress(read, 1000), now_s)
        assert deadline_s(progress) == expected_s


def test_a_prompt_that_grows_while_it_is_read_is_not_read_for_ever() -> None:
    progress = Progress(100.0, Reading())
    progress.note_prompt(PromptProgress(1, 2), 110.0)
    for n in range(2, 50):
        progress.note_prompt(PromptProgress(n, n + 1), 110.0 + n)
    assert deadline_s(progress) == 112.0 + 60


def test_while_another_prompt_is_read_a_prompt_waits_its_turn() -> None:
    reading = Reading()
    unread, begun, other = (Progress(100.0, reading) for _ in range(3))
    begun.note_prompt(PromptProgress(256, 1000), 101.0)
    other.note_prompt(PromptProgress(256, 1000), 150.0)
    assert deadline_s(unread) == deadline_s(begun) == 210.0
    other.note_prompt(PromptProgress(256, 1000), 180.0)
    assert deadline_s(unread) == deadline_s(begun) == 210.0, "a repetition excuses nobody"
    assert deadline_s(Progress(100.0, Reading())) == 160.0, "nor does another replica"


def test_a_task_whose_prompt_is_read_has_no_excuse() -> None:
    reading = Reading()
    read, speaking, other = (Progress(100.0, reading) for _ in range(3))
    read.note_prompt(PromptProgress(8, 8), 110.0)
    speaking.token_s = 110.0
    other.note_prompt(PromptProgress(256, 1000), 150.0)
    assert deadline_s(read) == deadline_s(speaking) == 170.0


def test_another_tasks_tokens_are_no_excuse() -> None:
    reading = Reading()
    waiting, other = Progress(100.0, reading), Progress(100.0, reading)
    other.token_s = 150.0
    assert deadline_s(waiting) == 160.0

"""Every state × step pair: where it leads, or that it is refused."""

from __future__ import annotations

from itertools import product

import pytest

from orchd.engines.adapter import Generation
from orchd.serving.task import Priority, State, Step, Token
from tests.serving.samples import make_task

LEADS = {
    (State.QUEUED, Step.GRANT): State.GRANTED,
    (State.QUEUED, Step.END): State.ENDED,
    (State.GRANTED, Step.START): State.STARTED,
    (State.GRANTED, Step.REQUEUE): State.QUEUED,
    (State.GRANTED, Step.END): State.ENDED,
    (State.STARTED, Step.REQUEUE): State.QUEUED,
    (State.STARTED, Step.END): State.ENDED,
}
PAIRS = list(product(State, Step))


@pytest.mark.parametrize(("state", "step"), PAIRS)
def test_each_step_leads_where_the_table_says_or_is_refused(state: State, step: Step) -> None:
    task = make_task()
    task.state = state
    if (state, step) in LEADS:
        task.step(step)
        assert task.state is LEADS[state, step]
        assert task.has_ended == (task.state is State.ENDED)
        assert task.requeues == (step is Step.REQUEUE)
    else:
        with pytest.raises(AssertionError, match=task.spec.task_id):
            task.step(step)
        assert (task.state, task.requeues) == (state, 0)


@pytest.mark.parametrize(
    ("tokens_logged", "requeues", "can_requeue"),
    [(0, 0, True), (1, 0, False), (0, 1, False), (1, 1, False)],
)
def test_a_task_has_one_second_chance_and_none_after_a_token(
    tokens_logged: int, requeues: int, can_requeue: bool
) -> None:
    task = make_task()
    task.tokens_logged, task.requeues = tokens_logged, requeues
    assert task.can_requeue == can_requeue


def test_an_ended_task_forgets_what_it_was_asked_and_nothing_else() -> None:
    """It is kept for minutes, and its prompt can have megabytes."""
    task = make_task(Priority.BATCH, "session")
    task_id = task.spec.task_id
    task.step(Step.GRANT)
    assert task.spec.generation.prompt == "Once"
    task.step(Step.END)
    assert task.spec.generation == Generation()
    assert (task.spec.task_id, task.spec.priority) == (task_id, Priority.BATCH)


def test_no_text_shows_in_a_repr() -> None:
    """Events stand in assertion messages, and those in the log."""
    assert "secret" not in repr(Token("secret", 0))

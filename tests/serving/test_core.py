"""What a refused client is told of when to return, on a clock that the test moves.

What becomes of tasks and slots is in test_histories.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from orchd.engines.adapter import Done, Generation
from orchd.errors import Code
from orchd.serving.core import Core
from orchd.serving.entry import Entry
from orchd.serving.task import Ended, Priority, Rejected, State, TaskEvent, TaskSpec
from orchd.serving.world import Outage, World
from tests.serving.samples import make_pool

SERVED = Done("stop", 1, 1, 1)


class Stage:
    """A pool of one slot and one waiting place for each priority."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.outage = Outage("crashed", 7.0)
        self.logged: list[TaskEvent] = []

        def encode(_: int, event: TaskEvent) -> bytes:
            self.logged.append(event)
            return b""

        world = World(encode, lambda: self.now_s, lambda: self.outage, lambda _: 0)
        self.core = Core(make_pool(interactive=1, batch=1), world)
        self._count = 0

    def submit(self, priority: Priority = Priority.INTERACTIVE) -> Entry | Rejected:
        self._count += 1
        task_id = f"task-{self._count}"
        return self.core.admit(TaskSpec(task_id, "chat", priority, None, Generation(prompt="a")))

    def backoff_s(self, priority: Priority = Priority.INTERACTIVE) -> float | None:
        rejected = self.submit(priority)
        assert isinstance(rejected, Rejected) and rejected.code is Code.ADMISSION_REJECT
        return rejected.backoff_s

    def serve_one(
        self, span_s: float, done: Done = SERVED, texts_after_s: Sequence[float] = ()
    ) -> None:
        (grant,) = self.core.take_todo().run
        self.core.start(grant)
        began_s = self.now_s
        for after_s in texts_after_s:
            self.now_s = began_s + after_s
            self.core.write(grant, "word ")
        self.now_s = began_s + span_s
        self.core.end(grant, done, span_s)
        self.core.release(grant)


@pytest.mark.parametrize(
    ("done", "texts_after_s", "ended"),
    [
        (Done("stop", 5, 7, 30), (1, 2), Ended(5, 7, 30, "stop")),
        (Done("stop", 5, 7, None), (1, 2), Ended(5, 7, 3000, "stop")),
        (Done("stop", 5, 0, None), (), Ended(5, 0, 4000, "stop")),
        (Done("length", None, 7, 30), (1, 2), Ended(0, 7, 30, "length", is_estimated=True)),
        (Done("stop", 5, None, 30), (1, 2), Ended(5, 2, 30, "stop", is_estimated=True)),
        (Done("stop", None, None, None), (), Ended(0, 0, 4000, "stop", is_estimated=True)),
    ],
)
def test_what_an_engine_does_not_count_is_counted_for_it(
    done: Done, texts_after_s: tuple[float, ...], ended: Ended
) -> None:
    stage = Stage()
    stage.core.open_slots("r0", 1)
    entry = stage.submit()
    assert isinstance(entry, Entry)
    stage.serve_one(4, done, texts_after_s)
    assert stage.logged[-1] == ended


def test_a_replicas_token_events_are_counted_while_its_tasks_run() -> None:
    stage = Stage()
    stage.core.open_slots("r0", 1)
    slots = stage.core.slots("r0")
    assert slots is not None
    for task in range(2):
        entry = stage.submit()
        (grant,) = stage.core.take_todo().run
        stage.core.start(grant)
        for n in range(3):
            stage.core.write(grant, "word ")
            assert slots.texts == 3 * task + n + 1
        assert isinstance(entry, Entry)
        stage.core.cancel(entry, "enough")
        stage.core.write(grant, "what nobody gets")
        stage.core.release(grant)
    assert slots.texts == 6
    stage.core.close_slots("r0")
    stage.core.open_slots("r0", 1)
    again = stage.core.slots("r0")
    assert again is not None and again.texts == 0


def test_a_place_is_free_after_a_task_of_the_length_of_late() -> None:
    stage = Stage()
    stage.core.open_slots("r0", 1)
    stage.submit()
    stage.serve_one(4.0)
    stage.submit()
    stage.submit()
    stage.submit(Priority.BATCH)
    assert stage.backoff_s() == 4.0
    assert stage.backoff_s(Priority.BATCH) == 8.0, "the interactive one that waits goes before"


def test_a_task_that_runs_for_longer_is_not_told_to_end_at_once() -> None:
    stage = Stage()
    stage.core.open_slots("r0", 1)
    stage.submit()
    stage.serve_one(1 / 256)
    stage.submit()
    stage.submit()
    assert stage.backoff_s() == 1 / 256
    stage.now_s += 30
    assert stage.backoff_s() == 30.0


def test_while_nothing_serves_it_is_worth_coming_back_when_something_is_tried() -> None:
    stage = Stage()
    rejected = stage.submit()
    assert rejected == Rejected(Code.POOL_UNAVAILABLE, "pool chat: crashed", "llamacpp", 7.0)
    stage.outage = Outage("loading for 3 s", None)
    rejected = stage.submit()
    assert isinstance(rejected, Rejected) and rejected.backoff_s == 1.0


def test_a_pool_that_is_held_admits_without_slots_if_it_had_some() -> None:
    stage = Stage()
    stage.core.hold()
    assert isinstance(stage.submit(), Rejected) and not stage.core.is_held
    stage.core.open_slots("r0", 1)
    stage.core.hold()
    stage.core.retire_slots("r0")
    stage.core.close_slots("r0")
    entry = stage.submit()
    assert isinstance(entry, Entry) and entry.task.state is State.QUEUED
    assert entry.describe_wait() == "waiting in the queue; crashed"
    stage.core.resume()
    assert isinstance(stage.submit(), Rejected)
    stage.core.open_slots("r1", 1)
    (grant,) = stage.core.take_todo().run
    assert (grant.task, grant.slots.replica_id) == (entry.task, "r1")

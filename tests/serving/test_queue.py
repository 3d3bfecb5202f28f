"""The bounded queue: order, bounds, removal, and that no operation grows dearer."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from orchd.serving.queue import WAITING_BYTES, TaskQueue
from orchd.serving.task import Priority, Task
from tests.serving.samples import make_task

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH


def make_queue(interactive: int = 10, batch: int = 10) -> TaskQueue:
    return TaskQueue({INTERACTIVE: interactive, BATCH: batch})


def push(queue: TaskQueue, priority: Priority = INTERACTIVE, count: int = 1) -> list[Task]:
    tasks = [make_task(priority) for _ in range(count)]
    for task in tasks:
        queue.push(task)
    return tasks


def drain(queue: TaskQueue) -> list[Task]:
    tasks = []
    while (task := queue.peek()) is not None:
        assert queue.remove(task)
        tasks.append(task)
    return tasks


def test_first_in_first_out_and_interactive_first() -> None:
    queue = make_queue()
    batch = push(queue, BATCH, 2)
    interactive = push(queue, INTERACTIVE, 2)
    batch += push(queue, BATCH)
    interactive += push(queue)
    assert drain(queue) == interactive + batch
    assert queue.peek() is None


def test_bounds_are_each_priority_its_own() -> None:
    queue = make_queue(interactive=1, batch=2)
    (task,) = push(queue)
    assert not queue.has_room(INTERACTIVE) and queue.has_room(BATCH)
    with pytest.raises(AssertionError, match="interactive is full"):
        push(queue)
    push(queue, BATCH, 2)
    assert (queue.depth(INTERACTIVE), queue.depth(BATCH)) == (1, 2)
    assert queue.describe_full(BATCH) == "2 batch tasks wait already, which is the bound"
    queue.remove(task)
    assert queue.has_room(INTERACTIVE) and not queue.has_room(BATCH)


def test_what_waits_may_take_so_much_memory_each_priority_its_own() -> None:
    queue, half = make_queue(), WAITING_BYTES // 2
    first, second = (make_task(size_bytes=size) for size in (half, half - 1))
    queue.push(first)
    queue.push(second)
    assert queue.has_room(INTERACTIVE, 1) and not queue.has_room(INTERACTIVE, 2)
    assert queue.has_room(BATCH, WAITING_BYTES)
    assert queue.describe_full(INTERACTIVE) == (
        "the 2 interactive tasks that wait take up the 128 MiB for them"
    )
    assert queue.remove(first) and not queue.remove(first)
    assert queue.has_room(INTERACTIVE, half + 1) and not queue.has_room(INTERACTIVE, half + 2)
    # One that comes back is not held to the bound, and counts.
    queue.push(make_task(size_bytes=half))
    queue.put_back(first)
    assert not queue.has_room(INTERACTIVE)
    drain(queue)
    assert queue.has_room(INTERACTIVE, WAITING_BYTES)


def test_one_that_is_larger_than_all_that_may_wait_waits_alone() -> None:
    queue = make_queue()
    queue.push(make_task(size_bytes=WAITING_BYTES + 1))
    assert not queue.has_room(INTERACTIVE, 1)
    drain(queue)
    queue.push(make_task(size_bytes=1))
    assert not queue.has_room(INTERACTIVE, WAITING_BYTES + 1)


def test_how_many_start_before_a_place_is_free() -> None:
    queue = make_queue()
    push(queue, INTERACTIVE, 3)
    push(queue, BATCH, 2)
    assert queue.starts_before_a_place(INTERACTIVE) == 0
    assert queue.starts_before_a_place(BATCH) == 3


def test_position_counts_those_that_go_before() -> None:
    queue = make_queue()
    push(queue, BATCH, 3)
    push(queue, INTERACTIVE, 2)
    assert (queue.position(INTERACTIVE), queue.position(BATCH)) == (2, 5)


def test_a_task_can_be_removed_wherever_it_stands_and_once() -> None:
    queue = make_queue()
    first, middle, last, other = push(queue, count=4)
    for task in (middle, first, other):
        assert queue.remove(task)
        assert not queue.remove(task)
    assert drain(queue) == [last]
    assert not queue.remove(make_task())


def test_a_task_that_is_put_back_goes_before_all_that_never_had_their_turn() -> None:
    queue = make_queue(interactive=2)
    (first,) = push(queue)
    queue.remove(first)
    waiting = push(queue, count=2)
    queue.put_back(first)
    assert queue.depth(INTERACTIVE) == 3, "its bound is for those who come, not for one who was in"
    assert not queue.has_room(INTERACTIVE)
    assert drain(queue) == [first, *waiting]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_tasks_that_come_back_together_keep_their_order(order: tuple[int, ...]) -> None:
    queue = make_queue()
    tasks = push(queue, count=5)
    for task in tasks[:3]:
        queue.remove(task)
    for n in order:
        queue.put_back(tasks[n])
    assert drain(queue) == tasks


def take_and_put_back(queue: TaskQueue, tasks: list[Task]) -> None:
    queue.remove(tasks[0])
    queue.put_back(tasks[0])


OPERATIONS: dict[str, Callable[[TaskQueue, list[Task]], object]] = {
    "push": lambda queue, tasks: queue.push(make_task()),
    "peek": lambda queue, tasks: queue.peek(),
    "remove first": lambda queue, tasks: queue.remove(tasks[0]),
    "remove middle": lambda queue, tasks: queue.remove(tasks[len(tasks) // 2]),
    "remove last": lambda queue, tasks: queue.remove(tasks[-1]),
    "put back": take_and_put_back,
    "position": lambda queue, tasks: queue.position(BATCH),
    "depth": lambda queue, tasks: queue.depth(BATCH),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_operation_grows_dearer_with_the_queue(operation: str) -> None:
    def cost(waiting: int) -> int:
        queue = make_queue(waiting + 1, waiting + 1)
        push(queue, BATCH, waiting)
        tasks = push(queue, INTERACTIVE, waiting)
        return count_steps(lambda: OPERATIONS[operation](queue, tasks))

    assert cost(5) == cost(5000)


def count_steps(act: Callable[[], object]) -> int:
    """Calls, of Python and of C, and lines of Python."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += 1
        return trace

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal steps
        steps += 1

    # A collection in between would count too: hypothesis has a callback of its own for it.
    gc.disable()
    before = sys.gettrace()
    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
        sys.settrace(before)
        gc.enable()
    return steps

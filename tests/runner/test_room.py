"""Who of those without room is woken, and in which order."""

from __future__ import annotations

from orchd.runner.placement import ReplicaPlan
from orchd.runner.room import Waiter, WaitingRoom
from tests.runner.gpus import gpu, machine, need, promised


class Queue:
    """A waiting room, and who has been woken."""

    def __init__(self) -> None:
        self.room = WaitingRoom()
        self.woken: list[str] = []

    def enter(self, name: str, gib: float, *devices: str) -> Waiter:
        plan = ReplicaPlan(name, devices or ("auto",))
        waiter = Waiter(plan, need(gib), lambda: self.woken.append(name))
        self.room.enter(waiter)
        return waiter


def test_who_finds_room_is_woken_once_and_the_others_wait_on() -> None:
    queue = Queue()
    queue.enter("large", 20)
    queue.enter("small", 6)
    queue.room.wake(machine(gpu(0, 8)))
    queue.room.wake(machine(gpu(0, 8)))
    assert queue.woken == ["small"]
    queue.room.wake(machine(gpu(0, 24)))
    assert queue.woken == ["small", "large"]
    assert queue.room.is_empty


def test_no_more_are_woken_than_there_is_room_for_the_first_to_come_first() -> None:
    queue = Queue()
    for name in ("a", "b", "c"):
        queue.enter(name, 6)
    queue.room.wake(machine(gpu(0, 8), gpu(1, 8)))
    assert queue.woken == ["a", "b"]


def test_what_is_reserved_is_no_room() -> None:
    queue = Queue()
    queue.enter("a", 6)
    queue.room.wake(machine(gpu(0, 8), reserved=(promised("GPU-0", 4),)))
    assert queue.woken == []


def test_who_has_left_is_not_woken_and_may_leave_twice() -> None:
    queue = Queue()
    waiter = queue.enter("a", 6)
    queue.room.leave(waiter)
    queue.room.leave(waiter)
    queue.room.wake(machine(gpu(0, 8)))
    assert queue.woken == []


def test_one_that_waits_for_its_own_card_is_not_woken_for_another() -> None:
    queue = Queue()
    queue.enter("a", 6, "GPU-1")
    queue.room.wake(machine(gpu(0, 8)))
    assert queue.woken == []
    queue.room.wake(machine(gpu(0, 8), gpu(1, 8)))
    assert queue.woken == ["a"]


def test_who_enters_again_while_being_woken_waits_for_the_next_time() -> None:
    queue = Queue()
    plan = ReplicaPlan("a", ("auto",))

    def again() -> None:
        queue.woken.append("a")
        queue.room.enter(Waiter(plan, need(6), again))

    queue.room.enter(Waiter(plan, need(6), again))
    queue.room.wake(machine(gpu(0, 24)))
    assert queue.woken == ["a"]

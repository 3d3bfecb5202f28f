"""The bounded queue of one pool: two priorities, FIFO within each, full policy Reject.

Every operation takes the same time however many tasks wait. Invariants: within a priority tasks
stand in the order in which they were admitted, those that came back included; a priority's bound
is checked in ``has_room`` and nowhere else, and ``put_back`` is for tasks that were admitted before
and is therefore not bounded by it. Each priority has bounds of its own, so a flood of the one never
has a task of the other refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import count, takewhile

from orchd.serving.task import Priority, Task

WAITING_BYTES = 128 * 1024 * 1024
"""What the waiting requests of one priority may take together: a body can have 8 MiB. Where
[server] lets one be larger than all of it, it may wait alone."""


class TaskQueue:
    """The tasks that wait."""

    def __init__(self, bounds: Mapping[Priority, int]) -> None:
        self._bounds = dict(bounds)
        # OrderedDict: removal by id and from both ends in O(1). A plain dict scans the holes that
        # its removed first entries leave behind.
        self._waiting: dict[Priority, OrderedDict[str, Task]] = {
            priority: OrderedDict() for priority in Priority
        }
        self._waiting_bytes = dict.fromkeys(Priority, 0)
        self._turns = count()

    def depth(self, priority: Priority) -> int:
        """How many tasks of that priority wait."""
        return len(self._waiting[priority])

    def has_room(self, priority: Priority, size_bytes: int = 0) -> bool:
        """True if a request of that size may wait."""
        waiting_bytes = self._waiting_bytes[priority]
        has_memory = not waiting_bytes or waiting_bytes + size_bytes <= WAITING_BYTES
        return len(self._waiting[priority]) < self._bounds[priority] and has_memory

    def describe_full(self, priority: Priority) -> str:
        """Why there is no room, for the user."""
        depth, bound = self.depth(priority), self._bounds[priority]
        if depth < bound:
            mib = WAITING_BYTES // (1024 * 1024)
            return f"the {depth} {priority} tasks that wait take up the {mib} MiB for them"
        return f"{depth} {priority} tasks wait already, which is the bound"

    def starts_before_a_place(self, priority: Priority) -> int:
        """How many waiting tasks have to start before one of that priority does."""
        return 0 if priority is Priority.INTERACTIVE else self.depth(Priority.INTERACTIVE)

    def position(self, priority: Priority) -> int:
        """How many waiting tasks would go before a new one of that priority."""
        before = self.depth(Priority.INTERACTIVE)
        return before + self.depth(Priority.BATCH) if priority is Priority.BATCH else before

    def push(self, task: Task) -> None:
        """Queue behind all of its priority; the caller has seen that there is room."""
        spec = task.spec
        assert self.has_room(spec.priority, spec.size_bytes), f"{spec.priority} is full"
        task.turn = next(self._turns)
        self._waiting[spec.priority][spec.task_id] = task
        self._waiting_bytes[spec.priority] += spec.size_bytes

    def put_back(self, task: Task) -> None:
        """Put a task that had its turn and lost it before all that never had theirs.

        The tasks of a replica that dies come back in any order, so it goes behind those of them
        that were admitted before it. They are no more than the pool has slots.
        """
        tasks = self._waiting[task.spec.priority]
        self._waiting_bytes[task.spec.priority] += task.spec.size_bytes
        earlier = list(takewhile(lambda other: other.turn < task.turn, tasks.values()))
        for moved in (task, *reversed(earlier)):
            tasks[moved.spec.task_id] = moved
            tasks.move_to_end(moved.spec.task_id, last=False)

    def peek(self) -> Task | None:
        """The task whose turn is next: interactive before batch."""
        for tasks in self._waiting.values():  # in the order of Priority
            if tasks:
                return next(iter(tasks.values()))
        return None

    def remove(self, task: Task) -> bool:
        """Take a task out wherever it stands; False when it does not wait."""
        spec = task.spec
        if self._waiting[spec.priority].pop(spec.task_id, None) is None:
            return False
        self._waiting_bytes[spec.priority] -= spec.size_bytes
        return True

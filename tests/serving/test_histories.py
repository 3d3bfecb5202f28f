"""Any history of tasks and slots: order, bounds, and one owner for each slot and each task.

What reliability.md promises of the pure core, invariants 1 to 3. A model as plain as can be says
after every step who has to be granted.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from orchd.serving.dispatch import Dispatcher, Grant, Slots
from orchd.serving.task import Priority, State, Step, Task
from tests.serving.samples import make_task

BOUNDS = {Priority.INTERACTIVE: 3, Priority.BATCH: 4}
REPLICAS = ("a", "b")
priorities = st.sampled_from(Priority)
sessions = st.sampled_from([None, "s1", "s2", "s3"])
picks = st.integers(min_value=0, max_value=1000)


class Histories(RuleBasedStateMachine):
    """The dispatcher beside its model."""

    def __init__(self) -> None:
        super().__init__()
        self.dispatcher = Dispatcher(BOUNDS)
        self.admitted: list[Task] = []
        self.waiting: set[int] = set()
        """Indexes into ``admitted``, which is the order of admission."""
        self.open: dict[str, int] = {}
        self.held: list[Grant] = []
        self.doubted: list[Grant] = []

    # -- the model -------------------------------------------------------------------------------

    def in_turn(self) -> list[Task]:
        """Who waits, interactive first, each in order of admission."""
        tasks = [self.admitted[n] for n in sorted(self.waiting)]
        return sorted(tasks, key=lambda task: list(Priority).index(task.spec.priority))

    def on(self, slots: Slots, grants: list[Grant]) -> int:
        return sum(grant.slots is slots for grant in grants)

    def free(self, replica_id: str) -> int:
        slots = self.dispatcher.slots(replica_id)
        assert slots is not None
        return 0 if self.on(slots, self.doubted) else slots.total - self.on(slots, self.held)

    def dispatch(self) -> None:
        free = {replica_id: self.free(replica_id) for replica_id in self.open}
        expected = self.in_turn()[: sum(free.values())]
        grants = self.dispatcher.dispatch()
        assert [grant.task for grant in grants] == expected
        for grant in grants:
            free[grant.slots.replica_id] -= 1
            self.waiting.remove(self.admitted.index(grant.task))
            self.held.append(grant)
        assert all(left >= 0 for left in free.values())
        assert self.dispatcher.dispatch() == []

    def pick(self, grants: list[Grant], number: int) -> Grant:
        return grants[number % len(grants)]

    def put_down(self, grant: Grant) -> None:
        self.held.remove(grant)
        if grant in self.doubted:
            self.doubted.remove(grant)
        self.dispatcher.release(grant)
        self.dispatch()

    # -- what can happen -------------------------------------------------------------------------

    @rule(priority=priorities, session_id=sessions)
    def submit(self, priority: Priority, session_id: str | None) -> None:
        queue = self.dispatcher.queue
        waiting = sum(self.admitted[n].spec.priority is priority for n in self.waiting)
        assert queue.has_room(priority) == (waiting < BOUNDS[priority])
        if not queue.has_room(priority):
            return
        task = make_task(priority, session_id)
        before = [t for t in self.in_turn() if t.spec.priority is Priority.INTERACTIVE]
        expected = len(before) if priority is Priority.INTERACTIVE else len(self.waiting)
        assert queue.position(priority) == expected
        self.waiting.add(len(self.admitted))
        self.admitted.append(task)
        queue.push(task)
        self.dispatch()

    @precondition(lambda self: len(self.open) < len(REPLICAS))
    @rule(total=st.integers(min_value=1, max_value=3))
    def open_replica(self, total: int) -> None:
        replica_id = next(name for name in REPLICAS if name not in self.open)
        self.open[replica_id] = total
        self.dispatcher.open_slots(replica_id, total)
        self.dispatch()

    @precondition(lambda self: self.open)
    @rule(number=picks)
    def close_replica(self, number: int) -> None:
        replica_id = sorted(self.open)[number % len(self.open)]
        del self.open[replica_id]
        self.dispatcher.close_slots(replica_id)
        self.dispatch()

    @precondition(lambda self: self.in_turn())
    @rule(number=picks)
    def cancel_waiting(self, number: int) -> None:
        task = self.in_turn()[number % len(self.waiting)]
        self.waiting.remove(self.admitted.index(task))
        assert self.dispatcher.queue.remove(task)
        assert not self.dispatcher.queue.remove(task)
        task.step(Step.END)
        self.dispatch()

    def running(self) -> list[Grant]:
        """Grants whose task still runs on them."""
        return [grant for grant in self.held if grant not in self.doubted]

    @precondition(lambda self: self.running())
    @rule(number=picks)
    def start(self, number: int) -> None:
        task = self.pick(self.running(), number).task
        if task.state is State.GRANTED:
            task.step(Step.START)

    @precondition(lambda self: self.running())
    @rule(number=picks)
    def end(self, number: int) -> None:
        grant = self.pick(self.running(), number)
        grant.task.step(Step.END)
        self.put_down(grant)

    @precondition(lambda self: self.running())
    @rule(number=picks)
    def break_off(self, number: int) -> None:
        """Its replica broke its stream; the slot is held until that has settled."""
        grant = self.pick(self.running(), number)
        self.dispatcher.doubt(grant)
        self.doubted.append(grant)
        if grant.task.can_requeue:
            grant.task.step(Step.REQUEUE)
            self.dispatcher.queue.put_back(grant.task)
            self.waiting.add(self.admitted.index(grant.task))
        else:
            grant.task.step(Step.END)
        self.dispatch()

    @precondition(lambda self: self.doubted)
    @rule(number=picks)
    def settle(self, number: int) -> None:
        self.put_down(self.pick(self.doubted, number))

    # -- what holds after each of them -----------------------------------------------------------

    @invariant()
    def busy_slots_are_the_grants_that_are_held(self) -> None:
        for replica_id, total in self.open.items():
            slots = self.dispatcher.slots(replica_id)
            assert slots is not None
            assert slots.busy == self.on(slots, self.held) <= slots.total == total
        assert self.dispatcher.open_slots_total == sum(self.open.values())

    @invariant()
    def every_task_is_in_one_place(self) -> None:
        running = [grant.task for grant in self.running()]
        for n, task in enumerate(self.admitted):
            owners = (n in self.waiting) + sum(task is one for one in running)
            assert owners == (0 if task.has_ended else 1)
            assert (task.state is State.QUEUED) == (n in self.waiting)

    @invariant()
    def the_queue_is_the_model(self) -> None:
        queue, tasks = self.dispatcher.queue, self.in_turn()
        assert queue.peek() is (tasks[0] if tasks else None)
        for priority in Priority:
            depth = sum(task.spec.priority is priority for task in tasks)
            assert queue.depth(priority) == depth


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)

"""Any history of one pool: order, bounds, one story a task, one owner a slot.

What reliability.md promises of the pure core, invariants 1 to 3, checked after every step against a
model as plain as can be.
"""

from __future__ import annotations

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from orchd.engines.adapter import Done, Generation, PromptProgress, Refused
from orchd.errors import Code
from orchd.serving.core import Core
from orchd.serving.dispatch import Grant, Slots
from orchd.serving.entry import Entry
from orchd.serving.task import (
    Broken,
    Bug,
    Ended,
    Failed,
    Outcome,
    Priority,
    Rejected,
    Stalled,
    Started,
    State,
    TaskEvent,
    TaskSpec,
    Token,
)
from orchd.serving.world import Outage, World
from tests.serving.samples import make_pool

BOUNDS = {Priority.INTERACTIVE: 3, Priority.BATCH: 4}
SPARE_VRAM_BYTES = {"a": 1, "b": 2}
STEPS = 50
DONE = Done("stop", 5, 3, 1)
BUSY = Refused("come back later", is_busy=True)
priorities = st.sampled_from(Priority)
sessions = st.sampled_from([None, "s1", "s2", "s3"])
picks = st.integers(min_value=0, max_value=1000)
STORY = re.compile("F?|ST*[EF]?")
LETTERS = {Started: "S", Token: "T", Ended: "E", Failed: "F"}


class Histories(RuleBasedStateMachine):
    """The core beside its model."""

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[tuple[int, TaskEvent]] = []
        self.now_s = 0.0
        outage = Outage("none is open", None)
        world = World(self.encode, lambda: self.now_s, lambda: outage, SPARE_VRAM_BYTES.__getitem__)
        self.core = Core(make_pool(interactive=3, batch=4), world)
        self.admitted: list[Entry] = []
        """In order of admission."""
        self.waiting: set[Entry] = set()
        self.ended: list[Entry] = []
        self.open: dict[str, int] = {}
        self.retired: set[str] = set()
        """Of those that are open: they finish what they have."""
        self.is_held = False
        self.running: dict[Grant, Entry] = {}
        self.settling: dict[Grant, bool] = {}
        """Held by no task any more, and whether they doubt their replica."""
        self.granted: list[Grant] = []
        """In order."""
        self.outcomes: list[tuple[Slots, Outcome]] = []
        """What became of the tasks on whose slots, in order."""
        self.gone: list[tuple[Grant, Entry]] = []
        """Grants of old, and their tasks."""
        self.requeued: set[Entry] = set()
        self.is_stopping = False

    def encode(self, seq: int, event: TaskEvent) -> bytes:
        self.encoded.append((seq, event))
        return b"%d\n" % (len(self.encoded) - 1)

    # -- the model -------------------------------------------------------------------------------

    def story(self, entry: Entry) -> list[TaskEvent]:
        frames, cursor = entry.log.read(0, 1 << 30)
        numbered = [self.encoded[int(line)] for line in frames.splitlines()]
        assert [seq for seq, _ in numbered] == list(range(cursor))
        return [event for _, event in numbered]

    def in_turn(self) -> list[Entry]:
        """Who waits, interactive first, each in order of admission."""
        waiting = [entry for entry in self.admitted if entry in self.waiting]
        return sorted(waiting, key=lambda e: e.task.spec.priority is Priority.BATCH)

    def held(self, slots: Slots) -> int:
        return sum(grant.slots is slots for grant in (*self.running, *self.settling))

    def free(self, replica_id: str) -> int:
        slots = self.core.slots(replica_id)
        assert slots is not None
        is_doubted = any(g.slots is slots and doubts for g, doubts in self.settling.items())
        is_out = is_doubted or replica_id in self.retired
        return 0 if is_out else self.open[replica_id] - self.held(slots)

    def look(self, *ended: Entry, cut: Grant | None = None) -> None:
        """What the step listed, against what the model would list."""
        todo = self.core.take_todo()
        assert todo.ended == list(ended)
        assert todo.cut == ([] if cut is None else [cut])
        self.ended += ended
        self.waiting -= set(ended)
        free = {replica_id: self.free(replica_id) for replica_id in self.open}
        expected = self.in_turn()[: sum(free.values())]
        assert [grant.task for grant in todo.run] == [entry.task for entry in expected]
        for grant, entry in zip(todo.run, expected, strict=True):
            most = max(free.values())
            replica_id = grant.slots.replica_id
            assert free[replica_id] > 0
            if entry.task.spec.session_id is None:
                idlest = [name for name, count in free.items() if count == most]
                assert replica_id == max(idlest, key=SPARE_VRAM_BYTES.__getitem__)
            free[replica_id] -= 1
            self.waiting.remove(entry)
            self.running[grant] = entry
            self.granted.append(grant)

    def pick(self, number: int) -> tuple[Grant, Entry]:
        return list(self.running.items())[number % len(self.running)]

    def leave(self, grant: Grant) -> None:
        """The grant's task does not run on it any more."""
        self.gone.append((grant, self.running.pop(grant)))

    def come_to(self, grant: Grant, outcome: Outcome) -> None:
        """The grant's run is over."""
        self.leave(grant)
        self.settling[grant] = isinstance(outcome, Broken | Stalled)
        self.outcomes.append((grant.slots, outcome))
        self.core.end(grant, outcome, 0.5)

    def breaks_in_a_row(self, slots: Slots) -> int:
        count = 0
        for where, outcome in self.outcomes:
            if where is slots:
                count += isinstance(outcome, Broken)
                count *= not isinstance(outcome, Done | Refused) or outcome == BUSY
        return count

    # -- what can happen -------------------------------------------------------------------------

    @rule(priority=priorities, session_id=sessions)
    def submit(self, priority: Priority, session_id: str | None) -> None:
        waiting = self.in_turn()
        same = [entry for entry in waiting if entry.task.spec.priority is priority]
        spec = TaskSpec(
            f"task-{len(self.admitted)}", "chat", priority, session_id, Generation(prompt="Once")
        )
        outcome = self.core.admit(spec)
        if self.is_stopping or not (set(self.open) - self.retired or self.is_held):
            assert isinstance(outcome, Rejected) and outcome.code is Code.POOL_UNAVAILABLE
        elif len(same) >= BOUNDS[priority]:
            assert isinstance(outcome, Rejected) and outcome.code is Code.ADMISSION_REJECT
            assert outcome.backoff_s is not None and outcome.backoff_s > 0
        else:
            assert isinstance(outcome, Entry)
            interactive = [e for e in waiting if e.task.spec.priority is Priority.INTERACTIVE]
            before = interactive if priority is Priority.INTERACTIVE else waiting
            assert outcome.task.queue_position == len(before)
            self.admitted.append(outcome)
            self.waiting.add(outcome)
        self.look()

    @precondition(lambda self: len(self.open) < len(SPARE_VRAM_BYTES))
    @rule(total=st.integers(min_value=1, max_value=3))
    def open_replica(self, total: int) -> None:
        replica_id = next(name for name in SPARE_VRAM_BYTES if name not in self.open)
        self.open[replica_id] = total
        self.core.open_slots(replica_id, total)
        self.look()

    @precondition(lambda self: self.open)
    @rule(number=picks)
    def close_replica(self, number: int) -> None:
        replica_id = sorted(self.open)[number % len(self.open)]
        del self.open[replica_id]
        self.retired.discard(replica_id)
        slots = self.core.slots(replica_id)
        concerned = [
            grant.task.spec.task_id
            for grant in self.granted
            if grant.slots is slots and (grant in self.running or self.settling.get(grant))
        ]
        assert self.core.close_slots(replica_id) == tuple(concerned)
        assert len(set(concerned)) == len(concerned)
        self.look()

    @precondition(lambda self: set(self.open) - self.retired)
    @rule(number=picks)
    def retire_replica(self, number: int) -> None:
        """It goes on with what it has; that is no event for any task."""
        serving = sorted(set(self.open) - self.retired)
        replica_id = serving[number % len(serving)]
        self.retired.add(replica_id)
        slots = self.core.retire_slots(replica_id)
        assert slots is self.core.slots(replica_id)
        assert slots.is_idle == (not self.held(slots))
        self.look()

    @rule()
    def hold(self) -> None:
        self.is_held = bool(set(self.open) - self.retired)
        self.core.hold()
        self.look()

    @rule()
    def resume(self) -> None:
        self.is_held = False
        self.core.resume()
        self.look()

    @precondition(lambda self: self.admitted)
    @rule(number=picks)
    def cancel(self, number: int) -> None:
        entry = self.admitted[number % len(self.admitted)]
        grant = next((grant for grant, task in self.running.items() if task is entry), None)
        story, had_ended = self.story(entry), entry in self.ended
        if grant is not None:
            self.leave(grant)
            self.settling[grant] = False
        self.core.cancel(entry, "unwanted")
        if had_ended:
            assert self.story(entry) == story
            self.look()
        else:
            assert self.story(entry) == [*story, Failed(Code.CANCELLED, "unwanted", "llamacpp")]
            self.look(entry, cut=grant)

    @precondition(lambda self: self.running)
    @rule(number=picks)
    def accept(self, number: int) -> None:
        grant, entry = self.pick(number)
        if entry.task.state is State.GRANTED:
            self.core.start(grant)
            self.look()

    @precondition(lambda self: self.running)
    @rule(number=picks, count=st.integers(min_value=1, max_value=3))
    def say(self, number: int, count: int) -> None:
        grant, entry = self.pick(number)
        if entry.task.state is State.STARTED:
            for n in range(count):
                self.core.write(grant, f"word {n}")
            self.look()

    @precondition(lambda self: self.running)
    @rule(number=picks, outcome=st.sampled_from([DONE, Refused("too long"), BUSY]))
    def end(self, number: int, outcome: Outcome) -> None:
        """The engine's last word: it is done with the slot, too."""
        grant, entry = self.pick(number)
        if isinstance(outcome, Done) and entry.task.state is not State.STARTED:
            return
        self.come_to(grant, outcome)
        last = self.story(entry)[-1]
        assert isinstance(last, Ended if outcome is DONE else Failed)
        if isinstance(last, Failed):
            unavailable, invalid = Code.POOL_UNAVAILABLE, Code.INVALID_PARAMS
            assert last.code is (unavailable if outcome is BUSY else invalid)
        self.look(entry)

    @precondition(lambda self: self.running)
    @rule(number=picks)
    def break_off(self, number: int) -> None:
        """The stream broke; the replica is granted nothing until that has settled."""
        self.break_one(*self.pick(number))

    @precondition(lambda self: self.running)
    @rule(number=picks)
    def break_all(self, number: int) -> None:
        """Every stream of one replica breaks."""
        slots = self.pick(number)[0].slots
        for grant, entry in tuple(self.running.items()):
            if grant.slots is slots:
                self.break_one(grant, entry)

    def break_one(self, grant: Grant, entry: Entry) -> None:
        said = any(isinstance(event, Token) for event in self.story(entry))
        is_end = said or entry in self.requeued or self.is_stopping
        if not is_end:
            self.requeued.add(entry)
            self.waiting.add(entry)
        self.come_to(grant, Broken("hung up"))
        if is_end:
            last = self.story(entry)[-1]
            assert isinstance(last, Failed) and last.code is Code.WORKER_RESET
        self.look(*[entry] * is_end)

    @precondition(lambda self: self.running)
    @rule(number=picks)
    def stall(self, number: int) -> None:
        """The end, whatever the task has had; the replica is granted nothing until it settles."""
        grant, entry = self.pick(number)
        self.come_to(grant, Stalled(60))
        message = f"replica {grant.slots.replica_id} made no progress for 60 s"
        assert self.story(entry)[-1] == Failed(Code.DECODE_TIMEOUT, message, "llamacpp")
        self.look(entry)

    @precondition(lambda self: self.running)
    @rule(number=picks)
    def meet_a_bug(self, number: int) -> None:
        grant, entry = self.pick(number)
        self.come_to(grant, Bug())
        self.look(entry)

    @precondition(lambda self: self.running)
    @rule(number=picks)
    def read_on(self, number: int) -> None:
        """That is no event, and brings no grant."""
        grant, entry = self.pick(number)
        story = self.story(entry)
        self.core.note_prompt(grant, PromptProgress(1, 2))
        assert entry.task.prompt == PromptProgress(1, 2) and self.story(entry) == story
        self.look()

    @precondition(lambda self: self.gone)
    @rule(number=picks)
    def speak_late(self, number: int) -> None:
        """The engine goes on for a moment on a grant that its task has left."""
        grant, entry = self.gone[number % len(self.gone)]
        story, prompt = self.story(entry), entry.task.prompt
        self.core.start(grant)
        self.core.note_prompt(grant, PromptProgress(7, 7))
        self.core.write(grant, "late")
        assert (self.story(entry), entry.task.prompt) == (story, prompt)
        self.look()

    @rule(span_s=st.floats(min_value=0, max_value=100))
    def wait(self, span_s: float) -> None:
        self.now_s += span_s

    @precondition(lambda self: self.settling)
    @rule(number=picks)
    def release(self, number: int) -> None:
        grant = list(self.settling)[number % len(self.settling)]
        del self.settling[grant]
        self.core.release(grant)
        self.look()

    @precondition(lambda self: len(self.running) > 1 and not self.is_stopping)
    @rule()
    def stop_admission(self) -> None:
        self.is_stopping = True
        waiting = [entry for entry in self.admitted if entry in self.waiting]
        self.core.stop_admission()
        self.look(*waiting)

    def teardown(self) -> None:
        """The daemon's end: whatever has not ended ends now."""
        open_tasks = [entry for entry in self.admitted if entry not in self.ended]
        self.core.end_tasks()
        todo = self.core.take_todo()
        assert todo.ended == open_tasks
        assert set(todo.cut) == set(self.running) and not todo.run
        self.ended += open_tasks
        self.settling |= dict.fromkeys(self.running, False)
        self.running, self.waiting = {}, set()
        for grant in self.settling:
            self.core.release(grant)
        self.settling = {}
        assert not self.core.take_todo().run
        self.every_task_has_one_story_and_one_place()
        self.busy_slots_are_the_grants_that_are_held()
        assert sorted(e.task.spec.task_id for e in self.ended) == sorted(
            e.task.spec.task_id for e in self.admitted
        )

    # -- what holds after each of them -----------------------------------------------------------

    @invariant()
    def every_task_has_one_story_and_one_place(self) -> None:
        for entry in self.admitted:
            story = self.story(entry)
            assert STORY.fullmatch("".join(LETTERS[type(event)] for event in story))
            tokens = [event.index for event in story if isinstance(event, Token)]
            assert tokens == list(range(len(tokens)))
            has_ended = bool(story) and isinstance(story[-1], Ended | Failed)
            owners = (entry in self.waiting) + list(self.running.values()).count(entry)
            assert owners == (0 if has_ended else 1)
            assert self.ended.count(entry) == entry.task.has_ended == has_ended
            assert entry.log.is_closed == has_ended
            assert (entry.task.state is State.QUEUED) == (entry in self.waiting)

    @invariant()
    def busy_slots_are_the_grants_that_are_held(self) -> None:
        for replica_id, total in self.open.items():
            slots = self.core.slots(replica_id)
            assert slots is not None
            assert slots.busy == self.held(slots) <= slots.total == total
            assert slots.is_retired == (replica_id in self.retired)
            assert slots.breaks == self.breaks_in_a_row(slots)
            assert (slots.fault is not None) == (slots.breaks > max(total, 2))
            started = [g for g, e in self.running.items() if e.task.state is State.STARTED]
            assert self.core.count_started(slots) == sum(g.slots is slots for g in started)
        for grant in self.running:
            assert self.core.is_running(grant)
        for grant, doubts in self.settling.items():
            assert not self.core.is_running(grant)
            assert (self.core.why_doubted(grant) is not None) == doubts

    @invariant()
    def no_bound_is_exceeded_but_by_those_that_came_back(self) -> None:
        for priority in Priority:
            waiting = [e for e in self.waiting if e.task.spec.priority is priority]
            assert self.core.depth(priority) == len(waiting)
            back = sum(entry in self.requeued for entry in waiting)
            assert len(waiting) - back <= BOUNDS[priority]


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=250, stateful_step_count=STEPS, deadline=None)

"""The one decision of a pool: which waiting task gets which slot.

``dispatch`` is asked after every submit, cancel, release and slot change, and answers with grants;
there is no second copy of it for any of them. It is synchronous: on one event loop that makes it
the critical section.

Invariants: a granted task holds exactly one slot until ``release``; a replica's busy slots are the
tasks granted to it and not released; a replica that was closed, retired or is doubted is granted
nothing. One that opens again under the same id has slots of its own: grants from before concern
only the slots that were closed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import assert_never

from orchd.engines.adapter import Done, Refused
from orchd.serving.queue import TaskQueue
from orchd.serving.task import (
    Broken,
    Bug,
    Doubt,
    Outcome,
    Priority,
    Stalled,
    Step,
    Task,
)

MAX_SESSIONS = 4096
"""How many sessions' last replicas are remembered; the longest unused is forgotten first."""


@dataclass(slots=True)
class Slots:
    """One replica's slots."""

    replica_id: str
    total: int
    busy: int = 0
    doubts: int = 0
    """Grants whose stream broke or stalled and that have not been released yet."""
    breaks: int = 0
    """How often in a row it broke a task, none ended well between. A task's second try counts like
    another's: to wait for more tasks would be to lose them to an engine that breaks all."""
    last_break: str = ""
    texts: int = 0
    """Token events of all tasks so far."""
    is_retired: bool = False
    """It finishes the tasks that it has, and is granted no more."""

    @property
    def is_idle(self) -> bool:
        return not self.busy

    @property
    def free(self) -> int:
        """How many tasks it can be given now."""
        return 0 if self.doubts or self.is_retired else self.total - self.busy

    @property
    def fault(self) -> str | None:
        """Why it is to be started afresh though it takes task after task; None where it is not."""
        # Of so many, one at least was granted after another had broken.
        if self.breaks <= max(self.total, 2):
            return None
        return f"broke tasks {self.breaks} times in a row, the last: {self.last_break}"

    def note_outcome(self, outcome: Outcome) -> None:
        """A run on it has come to that."""
        match outcome:
            case Broken(reason):
                self.breaks, self.last_break = self.breaks + 1, reason
            case Done() | Refused(is_busy=False):
                self.breaks = 0
            case Stalled() | Bug() | Refused():
                # The first is judged by itself, the others say nothing of it.
                pass
            case _:
                assert_never(outcome)


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """A task was given one slot; whoever holds the grant gives it back to ``release``, once."""

    task: Task
    slots: Slots


class Dispatcher:
    """One pool's queue and slots; ``spare_vram_bytes`` by replica id settles a draw."""

    def __init__(
        self, bounds: Mapping[Priority, int], spare_vram_bytes: Callable[[str], int]
    ) -> None:
        self.queue = TaskQueue(bounds)
        self._spare_vram_bytes = spare_vram_bytes
        self._open: dict[str, Slots] = {}
        self._held: set[Grant] = set()
        self._doubts: dict[Grant, Doubt] = {}
        self._sessions: OrderedDict[str, Slots] = OrderedDict()

    @property
    def open_slots_total(self) -> int:
        """Slots of all replicas that are granted tasks, busy or free; 0: nothing can serve."""
        return sum(slots.total for slots in self._open.values() if not slots.is_retired)

    def slots(self, replica_id: str) -> Slots | None:
        """The replica's slots until it is closed."""
        return self._open.get(replica_id)

    def open_slots(self, replica_id: str, total: int) -> None:
        """A replica is ready for that many tasks at once."""
        assert replica_id not in self._open, f"{replica_id} is open already"
        self._open[replica_id] = Slots(replica_id, total)

    def retire_slots(self, replica_id: str) -> Slots:
        """A replica is granted no more tasks, and goes once it has finished those it has."""
        slots = self._open[replica_id]
        slots.is_retired = True
        return slots

    def close_slots(self, replica_id: str) -> None:
        """A replica is gone, or as good as; the tasks that it has release what they hold."""
        self._open.pop(replica_id, None)

    def doubt(self, grant: Grant, why: Doubt) -> None:
        """The replica failed its task: grant nothing on it until this grant is released.

        All its slots are doubted, not one: where it has died, whatever is granted on it breaks.
        """
        assert grant in self._held and grant not in self._doubts, "a doubt without a grant"
        self._doubts[grant] = why
        grant.slots.doubts += 1

    @property
    def doubts(self) -> Mapping[Grant, Doubt]:
        """What each grant was doubted for, from ``doubt`` to ``release``."""
        return self._doubts

    def release(self, grant: Grant) -> None:
        """The slot is free again."""
        assert grant in self._held, "a slot was given back twice"
        self._held.remove(grant)
        grant.slots.busy -= 1
        if self._doubts.pop(grant, None) is not None:
            grant.slots.doubts -= 1

    def dispatch(self) -> list[Grant]:
        """Grant slots for as long as a task waits and a slot is free, in the queue's order."""
        grants: list[Grant] = []
        while (task := self.queue.peek()) is not None:
            slots = self._choose(task)
            if slots is None:
                break
            self.queue.remove(task)
            task.step(Step.GRANT)
            slots.busy += 1
            self._remember(task, slots)
            grant = Grant(task, slots)
            self._held.add(grant)
            grants.append(grant)
        return grants

    def _choose(self, task: Task) -> Slots | None:
        """The replica that holds the session's KV cache if it has a slot free, else the idlest.

        Of several that are as idle, the one whose device has the most VRAM to spare.
        """
        last = self._sessions.get(task.spec.session_id or "")
        # A replica that has been opened again since then has lost its cache.
        if last is not None and last.free and self._open.get(last.replica_id) is last:
            return last
        most = max((slots.free for slots in self._open.values()), default=0)
        if not most:
            return None
        idlest = [slots for slots in self._open.values() if slots.free == most]
        if len(idlest) == 1:
            return idlest[0]
        return max(idlest, key=lambda slots: self._spare_vram_bytes(slots.replica_id))

    def _remember(self, task: Task, slots: Slots) -> None:
        if task.spec.session_id is None:
            return
        self._sessions[task.spec.session_id] = slots
        self._sessions.move_to_end(task.spec.session_id)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)

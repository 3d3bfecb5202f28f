"""What the engines' journal says of the order and the number of generations. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

from soaking.tasks import Task
from tests.fakes.journal import Entry

MOST_BEGINNINGS = 2
"""Of one task: it is put back once."""

_BEGIN = re.compile(r"begin (#-?\d+) ")


class Beginnings:
    """By task's marker, when each of its generations began."""

    def __init__(self) -> None:
        self.at_s: dict[str, list[float]] = {}

    def note(self, journal: Iterable[Entry]) -> list[str]:
        """Take in what is new of the journal; returns what is wrong by it alone."""
        faults = []
        for entry in journal:
            if begun := _BEGIN.match(entry.text):
                times = self.at_s.setdefault(begun[1], [])
                times.append(entry.at_s)
                if len(times) > MOST_BEGINNINGS:
                    faults.append(f"task {begun[1]} was begun {len(times)} times")
        return faults


def list_beginning_faults(
    tasks: Mapping[str, Task], beginnings: Mapping[str, Sequence[float]]
) -> Iterator[str]:
    """Tasks that were refused and yet began, or that ended and never did."""
    counts = Counter({marker: len(times) for marker, times in beginnings.items()})
    for marker, task in tasks.items():
        if task.admitted_s is None:
            if counts[marker]:
                yield f"task {marker} was refused, and begun {counts[marker]} times"
        elif task.outcome == "end" and task.pool.is_fake and not counts[marker]:
            yield f"task {marker} has ended, and no engine has begun it"


def list_order_faults(
    tasks: Sequence[Task], beginnings: Mapping[str, Sequence[float]]
) -> Iterator[str]:
    """Of one pool with one slot: who has begun before another who should have come first.

    A task's place in the queue is known from its 202 on. So whoever was admitted before another of
    the same priority was posted begins before it; and whoever is interactive and was admitted
    before the generation that went before a batch task's has begun, does too, for it was waiting
    when that slot was granted again.
    """
    begun = [(beginnings[task.marker][0], task) for task in tasks if task.marker in beginnings]
    begun.sort(key=lambda pair: pair[0])
    for priority in ("interactive", "batch"):
        line = [task for _, task in begun if task.priority == priority]
        latest_posted = line[0] if line else None
        for task in line[1:]:
            assert latest_posted is not None and task.admitted_s is not None
            if task.admitted_s < latest_posted.posted_s:
                yield f"{priority} {latest_posted.marker} went before {task.marker}"
            latest_posted = max(latest_posted, task, key=lambda one: one.posted_s)
    yield from _list_jumps(begun)


def _list_jumps(begun: Sequence[tuple[float, Task]]) -> Iterator[str]:
    """Batch tasks that went before interactive ones."""
    for n, ((before_s, _), (_, task)) in enumerate(pairwise(begun)):
        if task.priority == "interactive":
            continue
        for _, later in begun[n + 2 :]:
            admitted_s = later.admitted_s
            assert admitted_s is not None
            if later.priority == "interactive" and admitted_s < before_s:
                yield f"batch {task.marker} went before interactive {later.marker}"

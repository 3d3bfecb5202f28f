"""One task of the load, what its client saw of it, and whether that may be.

Pure: what is judged is what was seen, never the time it took.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from soaking.pools import Pool

TERMINAL = ("end", "error")
LOSSES = ("WORKER_RESET", "DECODE_TIMEOUT", "POOL_UNAVAILABLE")
"""What an engine's fault may cost a task."""


class Seen(NamedTuple):
    """An event as a reader saw it."""

    id: str
    event: str
    data: str


@dataclass(slots=True)
class Task:
    """One task; instants are monotonic."""

    number: int
    pool: Pool
    priority: str
    tokens: int
    """That it asks for."""
    habit: str
    pace_s: float = 0.0
    """Between its tokens."""
    wish: str = ""
    """The fault that its prompt asks for, in the fake engine's words."""
    task_id: str = ""
    posted_s: float = 0.0
    admitted_s: float | None = None
    """When its 202 had come; None where it was refused."""
    has_cancelled: bool = False
    looks: list[list[Seen]] = field(default_factory=list)
    """What each of its readers saw while it happened, from its beginning on."""
    story: list[Seen] = field(default_factory=list)
    """The whole of it, as read at the end."""

    @property
    def marker(self) -> str:
        """What tells it from all others in an engine's journal."""
        return f"#{self.number}"

    @property
    def prompt(self) -> str:
        return f"{self.marker} [tokens {self.tokens}] [every {self.pace_s}] [signed] {self.wish}"

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.story]

    @property
    def last(self) -> dict[str, Any]:
        return dict(json.loads(self.story[-1].data))

    @property
    def outcome(self) -> str:
        """``end``, or the code of its error."""
        return "end" if self.names[-1] == "end" else str(self.last["code"])

    @property
    def text(self) -> str:
        return "".join(json.loads(e.data)["t"] for e in self.story if e.event == "token")


def list_faults(task: Task, models: Sequence[str]) -> Iterator[str]:
    """What is wrong with the story of an admitted task; ``models`` may have served it."""
    names, count = task.names, task.names.count("token")
    if not names or names[-1] not in TERMINAL:
        yield f"it has no end: {names[-3:]}"
        return
    if names not in (["error"], ["started", *["token"] * count, names[-1]]):
        yield f"its log is {names}"
        return
    if [event.id for event in task.story] != [str(n) for n in range(len(task.story))]:
        yield f"the ids are {[event.id for event in task.story]}"
    indexes = [json.loads(e.data)["i"] for e in task.story if e.event == "token"]
    if indexes != list(range(count)):
        yield f"the indexes are {indexes}"
    for look in task.looks:
        if look != task.story[: len(look)]:
            yield f"one reader saw {look[-3:]}, another {task.story[-3:]}"
    yield from _list_of_outcome(task, count)
    if not task.wish:
        yield from _list_of_text(task, count, models)


def list_place_faults(task: Task, place: int) -> list[str]:
    """What is wrong with the place in the queue that an admitted task was told.

    So many went before it, and whoever finds its priority's bound full is refused. Those that were
    put back count too; only before a batch task may they be more than the bound.
    """
    pool = task.pool
    most = pool.interactive - 1
    if task.priority == "batch":
        most += pool.batch + pool.replicas * pool.slots
    if place <= most:
        return []
    return [f"task {task.marker} was admitted to {pool.pool_id} behind {place}, not {most} at most"]


def _list_of_outcome(task: Task, count: int) -> Iterator[str]:
    outcome = task.outcome
    may_cancel = task.has_cancelled or (
        task.priority == "interactive" and task.habit in ("hangs up", "never reads")
    )
    if outcome == "CANCELLED" and not may_cancel:
        yield "it was cancelled, and nobody had asked for it"
    if outcome == "INVALID_PARAMS" and "refuse" not in task.wish:
        yield f"its client is blamed: {task.last}"
    if outcome not in ("end", "CANCELLED", "INVALID_PARAMS", *LOSSES):
        yield f"it ended in {task.last}"
    if outcome == "end" and not task.wish and task.pool.kind != "real":
        told = task.last["tokens_out"]
        if not count == told == task.tokens:
            yield f"of {task.tokens} tokens {count} came, and {told} were counted"


def _list_of_text(task: Task, count: int, models: Sequence[str]) -> Iterator[str]:
    signs = {"fake": [f"{Path(model).stem}:" for model in models], "openai": [""], "real": []}
    allowed = ["".join(f"{s}t{n} " for n in range(count)) for s in signs[task.pool.kind]]
    if allowed and task.text not in allowed:
        yield f"its text is {task.text[:200]!r}"

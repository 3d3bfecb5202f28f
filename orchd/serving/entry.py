"""A known task with its log and its readers.

Invariants: every event goes through ``emit``, which wakes every reader; a reader holds its cursor
and nothing else, so a slow one costs nobody anything; what an engine still says of a task that has
ended (a cancelled run stops one loop turn later) is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.serving.event_log import EventLog
from orchd.serving.task import Started, State, Step, Task, TaskEvent, Token

_AWAITED = {
    State.QUEUED: "waiting in the queue",
    State.GRANTED: "waiting for the engine to take the task",
    State.STARTED: "waiting for the next token",
    State.ENDED: "done",
}


class Entry:
    """What the service holds for one task."""

    def __init__(self, task: Task, log: EventLog) -> None:
        self.task = task
        self.log = log
        self.run: asyncio.Task[None] | None = None
        """The run that holds its slot; None while it waits and once it has ended."""
        self.abandonment: asyncio.TimerHandle | None = None
        # By reader, since two readers may share one wake.
        self._wakes: dict[object, Callable[[], None]] = {}

    @property
    def has_readers(self) -> bool:
        return bool(self._wakes)

    def emit(self, event: TaskEvent) -> None:
        """Log an event and wake the readers."""
        self.log.append(event)
        for wake in tuple(self._wakes.values()):  # a reader may leave when it is woken
            wake()

    def log_start(self) -> None:
        """The engine has taken the task: told once, also when another takes it again."""
        if self.task.has_ended:
            return
        self.task.step(Step.START)
        if not self.log.has_started:
            self.emit(Started(self.task.queue_position, self.task.predicted_start_ms))

    def log_text(self, text: str) -> None:
        """The engine has written a piece of the answer."""
        if self.task.has_ended:
            return
        self.emit(Token(text, self.task.tokens_logged))
        self.task.tokens_logged += 1

    def watch(self, reader: object, wake: Callable[[], None]) -> None:
        """Call ``wake`` after every event; it may only schedule, and never raises."""
        self._wakes[reader] = wake

    def unwatch(self, reader: object) -> bool:
        """False when it did not watch."""
        return self._wakes.pop(reader, None) is not None

    def describe_wait(self) -> str:
        """What a reader to whom nothing comes is waiting for."""
        if self.task.state is State.STARTED and not self.task.tokens_logged:
            return "the engine is reading the prompt"
        return _AWAITED[self.task.state]


class Reader:
    """One reader of one task, with its cursor."""

    def __init__(self, entry: Entry, cursor: int, on_change: Callable[[], None]) -> None:
        self._entry = entry
        self._cursor = cursor
        self._on_change = on_change

    def attach(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` after every event from now on."""
        self._entry.watch(self, wake)
        self._on_change()

    def detach(self) -> None:
        """Wake nobody any more; nothing happens to a reader that is not attached."""
        if self._entry.unwatch(self):
            self._on_change()

    def pull(self, limit_bytes: int) -> bytes:
        """Frames from the cursor on; empty when there are none yet."""
        frames, self._cursor = self._entry.log.read(self._cursor, limit_bytes)
        return frames

    @property
    def is_finished(self) -> bool:
        return self._entry.log.is_closed and self._cursor >= len(self._entry.log)

    def describe_wait(self) -> str:
        return self._entry.describe_wait()

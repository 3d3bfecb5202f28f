"""A known task with its log and its readers.

Invariants: an event is logged first and told to every reader then; a reader holds its cursor and
nothing else, so a slow one costs nobody anything.
"""

from __future__ import annotations

from collections.abc import Callable

from orchd.engines.adapter import PromptProgress
from orchd.serving.dispatch import Grant
from orchd.serving.event_log import EventLog
from orchd.serving.task import Ended, Failed, Started, State, Step, Task, Token


class Entry:
    """What is held for one task. ``explain_queue`` says what a waiting task waits for."""

    def __init__(self, task: Task, log: EventLog, explain_queue: Callable[[], str]) -> None:
        self.task = task
        self.log = log
        self.grant: Grant | None = None
        """What its task runs on now; only the core writes it."""
        self._explain_queue = explain_queue
        # By reader, since two readers may share one wake.
        self._wakes: dict[object, Callable[[], None]] = {}

    @property
    def has_readers(self) -> bool:
        return bool(self._wakes)

    def log_start(self) -> None:
        """The engine has taken the task: told once, also when another takes it again."""
        self.task.step(Step.START)
        if not self.log.has_started:
            self.log.append(Started(self.task.queue_position, self.task.predicted_start_ms))
            self.wake()

    def note_prompt(self, progress: PromptProgress) -> None:
        """The engine has read so much of the prompt; nobody is woken for it."""
        self.task.prompt = progress

    def log_text(self, text: str) -> None:
        """The engine has written a piece of the answer."""
        self.log.append(Token(text, self.task.tokens_logged))
        self.task.tokens_logged += 1
        self.wake()

    def log_end(self, event: Ended | Failed) -> None:
        """The task has ended; where the event cannot be logged, it has not.

        The readers are woken by the core, once its own books agree.
        """
        self.log.append(event)
        self.task.step(Step.END)

    def watch(self, reader: object, wake: Callable[[], None]) -> None:
        """Call ``wake`` after every event; it may only schedule, and never raises."""
        self._wakes[reader] = wake

    def unwatch(self, reader: object) -> bool:
        """False when it did not watch."""
        return self._wakes.pop(reader, None) is not None

    def describe_wait(self) -> str:
        """What a reader to whom nothing comes is waiting for."""
        match self.task.state:
            case State.QUEUED:
                return self._explain_queue()
            case State.GRANTED:
                return "waiting for the engine to take the task"
            case State.STARTED if not self.task.tokens_logged:
                told = self.task.prompt
                tokens = f" ({told.read_tokens} of {told.total_tokens} tokens)" if told else ""
                return f"the engine is reading the prompt{tokens}"
            case State.STARTED:
                return "waiting for the next token"
            case State.ENDED:
                return "done"

    def wake(self) -> None:
        """Tell every reader that there is more to read."""
        for wake in tuple(self._wakes.values()):  # a reader may leave when it is woken
            wake()


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
    def has_more(self) -> bool:
        return self._cursor < len(self._entry.log)

    @property
    def is_finished(self) -> bool:
        return self._entry.log.is_closed and self._cursor >= len(self._entry.log)

    def describe_wait(self) -> str:
        return self._entry.describe_wait()

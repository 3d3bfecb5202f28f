"""The daemon with one defect in it, to see that whoever looks for defects finds it.

Run as ``python -m tests.fakes.planted DEFECT ARGUMENTS...``: the arguments are orchd's own. Each
defect shows now and then only, as real ones do.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from orchd.__main__ import run
from orchd.reload_outcome import ReloadOutcome, Strategy
from orchd.runner.attempt import Attempt
from orchd.runner.reloading import Reload
from orchd.runner.resources import Resources
from orchd.serving.dispatch import Dispatcher, Grant
from orchd.serving.event_log import EventLog
from orchd.serving.queue import TaskQueue
from orchd.serving.task import Priority, Task

SLOT_EVERY, LEASE_EVERY, TURN_EVERY, RELOAD_EVERY = 50, 3, 10, 3
LAG_FRAMES = 3
LAST_TURN = 500


def keep_a_slot() -> None:
    """Now and then a slot that was given back stays busy."""
    release, number = Dispatcher.release, count(1)

    def forget(self: Dispatcher, grant: Grant) -> None:
        release(self, grant)
        grant.slots.busy += next(number) % SLOT_EVERY == 0

    Dispatcher.release = forget  # type: ignore[method-assign]


def move_a_cursor() -> None:
    """A reader that begins in the midst, and is behind, misses an event."""
    read = EventLog.read

    def skip(self: EventLog, cursor: int, limit_bytes: int) -> tuple[bytes, int]:
        is_behind = 0 < cursor <= len(self) - LAG_FRAMES
        return read(self, cursor + is_behind, limit_bytes)

    EventLog.read = skip  # type: ignore[method-assign]


def keep_a_reservation() -> None:
    """Some engines' reservations outlive them."""
    release, number = Resources._release, count(1)

    def forget(self: Resources, holding: Any) -> None:
        if next(number) % LEASE_EVERY:
            release(self, holding)

    Resources._release = forget  # type: ignore[method-assign]


def start_again() -> None:
    """A task whose replica dies before its first token is put back each time, not once."""
    Task.can_requeue = property(lambda self: self.tokens_logged == 0)  # type: ignore[assignment]


def keep_a_file() -> None:
    """Each engine costs a descriptor."""
    init = Attempt.__init__

    def open_and_forget(self: Attempt, *arguments: Any) -> None:
        init(self, *arguments)
        os.open(os.devnull, os.O_RDONLY)

    Attempt.__init__ = open_and_forget  # type: ignore[method-assign,assignment]


def take_the_second() -> None:
    """Now and then the task behind the next one goes first."""
    peek, number = TaskQueue.peek, count(1)

    def pass_one(self: TaskQueue) -> Task | None:
        for tasks in self._waiting.values():
            if len(tasks) > 1 and not next(number) % TURN_EVERY:
                return list(tasks.values())[1]
        return peek(self)

    TaskQueue.peek = pass_one  # type: ignore[method-assign]


def let_one_more_in() -> None:
    """A queue holds one more than its bound."""
    init = TaskQueue.__init__

    def widen(self: TaskQueue, bounds: Mapping[Priority, int]) -> None:
        init(self, {priority: bound + 1 for priority, bound in bounds.items()})

    TaskQueue.__init__ = widen  # type: ignore[method-assign]


def keep_the_model() -> None:
    """Some reloads change nothing, and say that they have."""
    go, number = Reload._go, count(1)

    async def pretend(self: Reload) -> ReloadOutcome:
        if next(number) % RELOAD_EVERY:
            return await go(self)
        self._strategy = Strategy.SIDE_BY_SIDE
        return self._succeed()

    Reload._go = pretend  # type: ignore[method-assign]


def vanish() -> None:
    """The whole daemon is gone, as by a fault in a library of C's."""
    dispatch, number = Dispatcher.dispatch, count(1)

    def end(self: Dispatcher) -> list[Grant]:
        if next(number) == LAST_TURN:
            os.kill(os.getpid(), signal.SIGKILL)
        return dispatch(self)

    Dispatcher.dispatch = end  # type: ignore[method-assign]


DEFECTS: dict[str, Callable[[], None]] = {
    "slot-not-released": keep_a_slot,
    "cursor-off-by-one": move_a_cursor,
    "reservation-kept": keep_a_reservation,
    "started-again": start_again,
    "descriptor-leak": keep_a_file,
    "out-of-turn": take_the_second,
    "bound-off-by-one": let_one_more_in,
    "model-kept": keep_the_model,
    "sudden-death": vanish,
}

if __name__ == "__main__":
    DEFECTS[sys.argv.pop(1)]()
    sys.exit(run())

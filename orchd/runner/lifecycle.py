"""A replica's life as one table: state × event → state and actions.

Whether a replica is wanted is no part of its state. Every way to the end, a spawn that fails, a
load that stalls, a crash, a hang, a stop, a process that outlives its SIGKILL, leads to the one
cell DOWN, and there ``decide_next`` alone says what follows. A pair that the table does not list
cannot happen: AssertionError.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto


class State(StrEnum):
    """Where a replica stands, by the names that /health shows."""

    DOWN = "down"
    """Nothing runs; where it is wanted, only for a moment."""
    PLACING = "placing"
    """A device is being chosen."""
    LOADING = "loading"
    """Its process runs and has not proven itself yet."""
    READY = "ready"
    """It has produced a token; its slots are open."""
    STOPPING = "stopping"
    """Its process is being ended, because it failed or because it is not wanted any more."""
    BACKOFF = "backoff"
    """Nothing runs until its next try is due."""


class Event(Enum):
    """What can happen to a replica."""

    START = auto()
    """It is wanted, and nothing stands against a try."""
    WAIT = auto()
    """It is wanted, and has failed just now."""
    STOP = auto()
    """It is not wanted any more."""
    PLACED = auto()
    NO_FIT = auto()
    """No device has room for it now, or its model cannot be read."""
    SPAWN_FAILED = auto()
    PROVEN = auto()
    """It has produced a token."""
    LOAD_FAILED = auto()
    """It made no progress for too long, or answered wrongly."""
    STUCK = auto()
    """It hangs, or does not do as it should."""
    DEVICE_LOST = auto()
    """Its GPU is gone, whatever its process does."""
    EXITED = auto()
    """Its process is gone and reaped."""
    KILL_TIMED_OUT = auto()
    """Its process is there still, long after SIGKILL."""
    RETRY_DUE = auto()
    """Its wait is over, or there may be room for it now."""


class Action(Enum):
    """What the shell is to do, in order, on the way to the new state."""

    PLACE = auto()
    SPAWN = auto()
    OPEN_SLOTS = auto()
    CLOSE_SLOTS = auto()
    STOP_PROCESS = auto()
    """SIGTERM, and SIGKILL after the grace."""
    KILL_PROCESS = auto()
    """SIGKILL: it would not hear anything else."""
    RECORD = auto()
    """Keep what is known of its process's death, unless that was asked for."""
    GIVE_BACK = auto()
    """Its reservation and its port are free again."""
    ABANDON = auto()
    """Its process keeps both until it is gone after all."""
    SCHEDULE_RETRY = auto()
    CANCEL_WORK = auto()
    """Whatever it was doing or waiting for in this state is not needed any more."""
    DECIDE_NEXT = auto()
    """Ask ``decide_next``, and post the event that it answers."""


Outcome = tuple[State, tuple[Action, ...]]

_TABLE: dict[tuple[State, Event], Outcome] = {
    (State.DOWN, Event.START): (State.PLACING, (Action.PLACE,)),
    (State.DOWN, Event.WAIT): (State.BACKOFF, (Action.SCHEDULE_RETRY,)),
    #
    (State.PLACING, Event.PLACED): (State.LOADING, (Action.SPAWN,)),
    (State.PLACING, Event.NO_FIT): (State.DOWN, (Action.DECIDE_NEXT,)),
    (State.PLACING, Event.STOP): (State.DOWN, (Action.CANCEL_WORK, Action.DECIDE_NEXT)),
    #
    (State.LOADING, Event.PROVEN): (State.READY, (Action.OPEN_SLOTS,)),
    (State.LOADING, Event.SPAWN_FAILED): (State.DOWN, (Action.GIVE_BACK, Action.DECIDE_NEXT)),
    (State.LOADING, Event.LOAD_FAILED): (State.STOPPING, (Action.STOP_PROCESS,)),
    (State.LOADING, Event.DEVICE_LOST): (
        State.STOPPING,
        (Action.CANCEL_WORK, Action.STOP_PROCESS),
    ),
    (State.LOADING, Event.STOP): (State.STOPPING, (Action.CANCEL_WORK, Action.STOP_PROCESS)),
    (State.LOADING, Event.EXITED): (
        State.DOWN,
        (Action.CANCEL_WORK, Action.RECORD, Action.GIVE_BACK, Action.DECIDE_NEXT),
    ),
    #
    (State.READY, Event.STUCK): (State.STOPPING, (Action.CLOSE_SLOTS, Action.KILL_PROCESS)),
    (State.READY, Event.DEVICE_LOST): (
        State.STOPPING,
        (Action.CLOSE_SLOTS, Action.STOP_PROCESS),
    ),
    (State.READY, Event.STOP): (State.STOPPING, (Action.CLOSE_SLOTS, Action.STOP_PROCESS)),
    (State.READY, Event.EXITED): (
        State.DOWN,
        (Action.CLOSE_SLOTS, Action.RECORD, Action.GIVE_BACK, Action.DECIDE_NEXT),
    ),
    #
    (State.STOPPING, Event.STOP): (State.STOPPING, ()),
    (State.STOPPING, Event.EXITED): (
        State.DOWN,
        (Action.RECORD, Action.GIVE_BACK, Action.DECIDE_NEXT),
    ),
    (State.STOPPING, Event.KILL_TIMED_OUT): (
        State.DOWN,
        (Action.RECORD, Action.ABANDON, Action.DECIDE_NEXT),
    ),
    #
    (State.BACKOFF, Event.RETRY_DUE): (State.PLACING, (Action.PLACE,)),
    (State.BACKOFF, Event.STOP): (State.DOWN, (Action.CANCEL_WORK, Action.DECIDE_NEXT)),
}


def step(state: State, event: Event) -> Outcome:
    """The new state, and what to do on the way there."""
    outcome = _TABLE.get((state, event))
    assert outcome is not None, f"{event} cannot happen to a replica that is {state}"
    return outcome


def decide_next(*, is_wanted: bool, has_failed: bool) -> Event | None:
    """What happens next to a replica that has come DOWN; None where it stays so.

    One that was stopped and is wanted again has not failed: it starts at once.
    """
    if not is_wanted:
        return None
    return Event.WAIT if has_failed else Event.START

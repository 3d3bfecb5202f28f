"""A replica's life as one table: state × event → state and actions.

Every exit of an engine lands in BACKOFF or DOWN, whatever came before it: a spawn that fails, a
load that stalls, a crash and a stop are ordinary events. The states from which a replica starts
again by itself are those of a replica that is wanted; STOPPING and DOWN are those of one that is
not. A pair that the table does not list cannot happen: AssertionError.
"""

from __future__ import annotations

from enum import Enum, StrEnum, auto


class State(StrEnum):
    """Where a replica stands, by the names that /health shows."""

    DOWN = "down"
    """Not wanted, nothing runs."""
    PLACING = "placing"
    """A device is being chosen."""
    LOADING = "loading"
    """Its process runs and has not proven itself yet."""
    READY = "ready"
    """It has produced a token; its slots are open."""
    FAILING = "failing"
    """Its process is being stopped because it failed; it is still wanted."""
    BACKOFF = "backoff"
    """Nothing runs until its next try is due."""
    STOPPING = "stopping"
    """Its process is being stopped because it is no longer wanted."""


class Event(Enum):
    """What can happen to a replica."""

    WANT = auto()
    UNWANT = auto()
    PLACED = auto()
    NO_FIT = auto()
    """No device has room for it now, or its model cannot be read."""
    SPAWN_FAILED = auto()
    PROVEN = auto()
    """It has produced a token."""
    LOAD_FAILED = auto()
    """It made no progress for too long, or answered wrongly."""
    STUCK = auto()
    """It answers, and does not do as it should."""
    EXITED = auto()
    """Its process is gone and reaped."""
    RETRY_DUE = auto()
    """Its wait is over, or there may be room for it now."""
    DEVICE_LOST = auto()
    """Its GPU is gone, whatever its process does."""


class Action(Enum):
    """What the shell is to do, in order, on the way to the new state."""

    PLACE = auto()
    SPAWN = auto()
    OPEN_SLOTS = auto()
    CLOSE_SLOTS = auto()
    STOP_PROCESS = auto()
    GIVE_BACK = auto()
    """Its reservation and its port are free again."""
    SCHEDULE_RETRY = auto()
    CANCEL_WORK = auto()
    """Whatever it was doing or waiting for in this state is not needed any more."""


Outcome = tuple[State, tuple[Action, ...]]

_TABLE: dict[tuple[State, Event], Outcome] = {
    (State.DOWN, Event.WANT): (State.PLACING, (Action.PLACE,)),
    #
    (State.PLACING, Event.PLACED): (State.LOADING, (Action.SPAWN,)),
    (State.PLACING, Event.NO_FIT): (State.BACKOFF, (Action.SCHEDULE_RETRY,)),
    (State.PLACING, Event.UNWANT): (State.DOWN, (Action.CANCEL_WORK,)),
    #
    (State.LOADING, Event.PROVEN): (State.READY, (Action.OPEN_SLOTS,)),
    (State.LOADING, Event.SPAWN_FAILED): (
        State.BACKOFF,
        (Action.GIVE_BACK, Action.SCHEDULE_RETRY),
    ),
    (State.LOADING, Event.LOAD_FAILED): (State.FAILING, (Action.STOP_PROCESS,)),
    (State.LOADING, Event.EXITED): (
        State.BACKOFF,
        (Action.CANCEL_WORK, Action.GIVE_BACK, Action.SCHEDULE_RETRY),
    ),
    (State.LOADING, Event.DEVICE_LOST): (
        State.FAILING,
        (Action.CANCEL_WORK, Action.STOP_PROCESS),
    ),
    (State.LOADING, Event.UNWANT): (
        State.STOPPING,
        (Action.CANCEL_WORK, Action.STOP_PROCESS),
    ),
    #
    (State.READY, Event.DEVICE_LOST): (
        State.FAILING,
        (Action.CLOSE_SLOTS, Action.STOP_PROCESS),
    ),
    (State.READY, Event.EXITED): (
        State.BACKOFF,
        (Action.CLOSE_SLOTS, Action.GIVE_BACK, Action.SCHEDULE_RETRY),
    ),
    (State.READY, Event.STUCK): (State.FAILING, (Action.CLOSE_SLOTS, Action.STOP_PROCESS)),
    (State.READY, Event.UNWANT): (State.STOPPING, (Action.CLOSE_SLOTS, Action.STOP_PROCESS)),
    #
    (State.FAILING, Event.EXITED): (State.BACKOFF, (Action.GIVE_BACK, Action.SCHEDULE_RETRY)),
    (State.FAILING, Event.UNWANT): (State.STOPPING, ()),
    #
    (State.BACKOFF, Event.RETRY_DUE): (State.PLACING, (Action.PLACE,)),
    (State.BACKOFF, Event.UNWANT): (State.DOWN, (Action.CANCEL_WORK,)),
    #
    (State.STOPPING, Event.EXITED): (State.DOWN, (Action.GIVE_BACK,)),
}


def step(state: State, event: Event) -> Outcome:
    """The new state, and what to do on the way there."""
    outcome = _TABLE.get((state, event))
    assert outcome is not None, f"{event} cannot happen to a replica that is {state}"
    return outcome

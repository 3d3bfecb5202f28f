"""The lifecycle table: every pair of state and event, and what holds after any history."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.lifecycle import Action, Event, State, step

A, E, S = Action, Event, State

EXPECTED = {
    (S.DOWN, E.WANT): (S.PLACING, [A.PLACE]),
    (S.PLACING, E.UNWANT): (S.DOWN, [A.CANCEL_WORK]),
    (S.PLACING, E.PLACED): (S.LOADING, [A.SPAWN]),
    (S.PLACING, E.NO_FIT): (S.BACKOFF, [A.SCHEDULE_RETRY]),
    (S.LOADING, E.UNWANT): (S.STOPPING, [A.CANCEL_WORK, A.STOP_PROCESS]),
    (S.LOADING, E.SPAWN_FAILED): (S.BACKOFF, [A.GIVE_BACK, A.SCHEDULE_RETRY]),
    (S.LOADING, E.DEVICE_LOST): (S.FAILING, [A.CANCEL_WORK, A.STOP_PROCESS]),
    (S.READY, E.DEVICE_LOST): (S.FAILING, [A.CLOSE_SLOTS, A.STOP_PROCESS]),
    (S.LOADING, E.PROVEN): (S.READY, [A.OPEN_SLOTS]),
    (S.LOADING, E.LOAD_FAILED): (S.FAILING, [A.STOP_PROCESS]),
    (S.LOADING, E.EXITED): (S.BACKOFF, [A.CANCEL_WORK, A.GIVE_BACK, A.SCHEDULE_RETRY]),
    (S.READY, E.STUCK): (S.FAILING, [A.CLOSE_SLOTS, A.STOP_PROCESS]),
    (S.READY, E.UNWANT): (S.STOPPING, [A.CLOSE_SLOTS, A.STOP_PROCESS]),
    (S.READY, E.EXITED): (S.BACKOFF, [A.CLOSE_SLOTS, A.GIVE_BACK, A.SCHEDULE_RETRY]),
    (S.FAILING, E.UNWANT): (S.STOPPING, []),
    (S.FAILING, E.EXITED): (S.BACKOFF, [A.GIVE_BACK, A.SCHEDULE_RETRY]),
    (S.BACKOFF, E.UNWANT): (S.DOWN, [A.CANCEL_WORK]),
    (S.BACKOFF, E.RETRY_DUE): (S.PLACING, [A.PLACE]),
    (S.STOPPING, E.EXITED): (S.DOWN, [A.GIVE_BACK]),
}
PAIRS = [(state, event) for state in State for event in Event]

OWN_EVENTS = {
    A.PLACE: {E.PLACED, E.NO_FIT},
    A.SPAWN: {E.SPAWN_FAILED, E.PROVEN, E.LOAD_FAILED, E.EXITED},
    A.STOP_PROCESS: {E.EXITED},
    A.SCHEDULE_RETRY: {E.RETRY_DUE},
}
"""What each action that takes time brings about, sooner or later."""


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda value: value.name)
def test_each_pair_is_as_listed_or_refused(state: State, event: Event) -> None:
    if (state, event) in EXPECTED:
        new_state, actions = step(state, event)
        assert (new_state, list(actions)) == EXPECTED[state, event]
    else:
        with pytest.raises(AssertionError, match=f"cannot happen to a replica that is {state}"):
            step(state, event)


def legal_events(state: State) -> list[Event]:
    return [event for event in Event if (state, event) in EXPECTED]


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[State, Event]]:
    """Pairs that follow from each other, from DOWN on."""
    state, history = State.DOWN, []
    for _ in range(draw(st.integers(0, 60))):
        event = draw(st.sampled_from(legal_events(state)))
        history.append((state, event))
        state, _ = step(state, event)
    return history


def actions_of(history: list[tuple[State, Event]]) -> list[Action]:
    return [action for state, event in history for action in step(state, event)[1]]


def end_of(history: list[tuple[State, Event]]) -> State:
    return step(*history[-1])[0] if history else State.DOWN


@given(histories())
def test_what_was_placed_is_given_back_once(history: list[tuple[State, Event]]) -> None:
    held = 0
    for state, event in history:
        new_state, actions = step(state, event)
        held += (event is Event.PLACED) - actions.count(Action.GIVE_BACK)
        assert held == (new_state in (S.LOADING, S.READY, S.FAILING, S.STOPPING))


@given(histories())
def test_slots_are_open_in_ready_only(history: list[tuple[State, Event]]) -> None:
    count = Counter(actions_of(history))
    is_open = end_of(history) is State.READY
    assert count[Action.OPEN_SLOTS] - count[Action.CLOSE_SLOTS] == is_open


@given(histories())
def test_a_process_is_spawned_only_where_none_is(history: list[tuple[State, Event]]) -> None:
    has_process = False
    for state, event in history:
        _, actions = step(state, event)
        if event in (Event.EXITED, Event.SPAWN_FAILED):
            assert has_process
            has_process = False
        assert not (has_process and Action.SPAWN in actions)
        assert has_process or Action.STOP_PROCESS not in actions
        has_process = has_process or Action.SPAWN in actions


@given(histories())
def test_a_wanted_replica_always_has_something_under_way(
    history: list[tuple[State, Event]],
) -> None:
    """Liveness: the event that leads on is one that an action of its own will bring about."""
    coming: set[Event] = set()
    for state, event in history:
        _, actions = step(state, event)
        if Action.CANCEL_WORK in actions:
            coming &= {Event.EXITED}
        if event in (E.EXITED, E.SPAWN_FAILED):
            coming = set()
        coming.discard(event)
        for action in actions:
            coming |= OWN_EVENTS.get(action, set())
    state = end_of(history)
    if state is not State.DOWN:
        leading_on = [e for e in legal_events(state) if e is not Event.UNWANT and e in coming]
        assert leading_on, f"{state} waits for nothing"


@given(histories())
def test_from_anywhere_a_wanted_replica_can_become_ready(
    history: list[tuple[State, Event]],
) -> None:
    state = end_of(history)
    straight_on = {
        S.DOWN: E.WANT,
        S.PLACING: E.PLACED,
        S.LOADING: E.PROVEN,
        S.FAILING: E.EXITED,
        S.BACKOFF: E.RETRY_DUE,
        S.STOPPING: E.EXITED,
    }
    for _ in State:
        if state is State.READY:
            return
        state, _ = step(state, straight_on[state])
    raise AssertionError(f"ends in {state}")


@given(histories())
def test_from_anywhere_an_unwanted_replica_ends_in_down(
    history: list[tuple[State, Event]],
) -> None:
    state = end_of(history)
    if state not in (State.DOWN, State.STOPPING):
        state, _ = step(state, Event.UNWANT)
    if state is State.STOPPING:
        state, _ = step(state, Event.EXITED)
    assert state is State.DOWN

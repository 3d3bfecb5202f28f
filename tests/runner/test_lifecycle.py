"""The lifecycle table: every pair of state and event, and what holds after any history."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.lifecycle import Action, Event, State, decide_next, step

A, E, S = Action, Event, State

EXPECTED = {
    (S.DOWN, E.START): (S.PLACING, [A.PLACE]),
    (S.DOWN, E.WAIT): (S.BACKOFF, [A.SCHEDULE_RETRY]),
    (S.PLACING, E.STOP): (S.DOWN, [A.CANCEL_WORK, A.DECIDE_NEXT]),
    (S.PLACING, E.PLACED): (S.LOADING, [A.SPAWN]),
    (S.PLACING, E.NO_FIT): (S.DOWN, [A.DECIDE_NEXT]),
    (S.LOADING, E.STOP): (S.STOPPING, [A.CANCEL_WORK, A.STOP_PROCESS]),
    (S.LOADING, E.SPAWN_FAILED): (S.DOWN, [A.GIVE_BACK, A.DECIDE_NEXT]),
    (S.LOADING, E.PROVEN): (S.READY, [A.OPEN_SLOTS]),
    (S.LOADING, E.LOAD_FAILED): (S.STOPPING, [A.STOP_PROCESS]),
    (S.LOADING, E.DEVICE_LOST): (S.STOPPING, [A.CANCEL_WORK, A.STOP_PROCESS]),
    (S.LOADING, E.EXITED): (S.DOWN, [A.CANCEL_WORK, A.RECORD, A.GIVE_BACK, A.DECIDE_NEXT]),
    (S.READY, E.STOP): (S.STOPPING, [A.CLOSE_SLOTS, A.STOP_PROCESS]),
    (S.READY, E.STUCK): (S.STOPPING, [A.CLOSE_SLOTS, A.KILL_PROCESS]),
    (S.READY, E.DEVICE_LOST): (S.STOPPING, [A.CLOSE_SLOTS, A.STOP_PROCESS]),
    (S.READY, E.EXITED): (S.DOWN, [A.CLOSE_SLOTS, A.RECORD, A.GIVE_BACK, A.DECIDE_NEXT]),
    (S.STOPPING, E.STOP): (S.STOPPING, []),
    (S.STOPPING, E.EXITED): (S.DOWN, [A.RECORD, A.GIVE_BACK, A.DECIDE_NEXT]),
    (S.STOPPING, E.KILL_TIMED_OUT): (S.DOWN, [A.RECORD, A.ABANDON, A.DECIDE_NEXT]),
    (S.BACKOFF, E.STOP): (S.DOWN, [A.CANCEL_WORK, A.DECIDE_NEXT]),
    (S.BACKOFF, E.RETRY_DUE): (S.PLACING, [A.PLACE]),
}
PAIRS = [(state, event) for state in State for event in Event]

OWN_EVENTS = {
    A.PLACE: {E.PLACED, E.NO_FIT},
    A.SPAWN: {E.SPAWN_FAILED, E.PROVEN, E.LOAD_FAILED, E.EXITED},
    A.STOP_PROCESS: {E.EXITED, E.KILL_TIMED_OUT},
    A.KILL_PROCESS: {E.EXITED, E.KILL_TIMED_OUT},
    A.SCHEDULE_RETRY: {E.RETRY_DUE},
}
"""What each action that takes time brings about, sooner or later."""
FAILURES = {E.NO_FIT, E.SPAWN_FAILED, E.LOAD_FAILED, E.STUCK, E.DEVICE_LOST, E.KILL_TIMED_OUT}


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda value: value.name)
def test_each_pair_is_as_listed_or_refused(state: State, event: Event) -> None:
    if (state, event) in EXPECTED:
        new_state, actions = step(state, event)
        assert (new_state, list(actions)) == EXPECTED[state, event]
    else:
        with pytest.raises(AssertionError, match=f"cannot happen to a replica that is {state}"):
            step(state, event)


@pytest.mark.parametrize(
    ("is_wanted", "has_failed", "following"),
    [(False, False, None), (False, True, None), (True, True, E.WAIT), (True, False, E.START)],
)
def test_what_follows_at_the_end_is_decided_in_one_place(
    is_wanted: bool, has_failed: bool, following: Event | None
) -> None:
    assert decide_next(is_wanted=is_wanted, has_failed=has_failed) is following


def test_every_end_asks_what_follows_last_of_all() -> None:
    for state, actions in EXPECTED.values():
        assert (A.DECIDE_NEXT in actions) == (state is S.DOWN)
        assert A.DECIDE_NEXT not in actions[:-1]


@dataclass
class Life:
    """A replica as its shell would drive it, with the world's answers drawn from outside."""

    state: State = S.DOWN
    is_wanted: bool = False
    has_failed: bool = False
    coming: set[Event] = field(default_factory=set)
    """What its own actions will bring about, one of them at a time."""
    has_process: bool = False
    is_open: bool = False
    held: int = 0
    abandoned: int = 0
    spawns: int = 0

    def want(self) -> None:
        self.is_wanted = True
        if self.state is S.DOWN:
            self.has_failed = False
            self._follow()

    def unwant(self) -> None:
        self.is_wanted = self.has_failed = False
        if self.state is not S.DOWN:
            self.post(E.STOP)

    def possible(self) -> list[Event]:
        """What can come from outside or from its own work now."""
        listed = {event for state, event in EXPECTED if state is self.state}
        ours = {E.START, E.WAIT, E.STOP}  # posted by the shell alone
        from_outside = {E.STUCK, E.DEVICE_LOST} | ({E.EXITED} if self.has_process else set())
        return sorted(listed & (self.coming | from_outside) - ours, key=lambda event: event.name)

    def post(self, event: Event) -> None:
        was_asked = self.state is S.STOPPING and not self.has_failed and event is E.EXITED
        self.coming.discard(event)
        if event in FAILURES or (event is E.EXITED and not was_asked):
            self.has_failed = True
        self.held += event is E.PLACED
        if event is E.PROVEN:
            self.has_failed = False
        if event in (E.EXITED, E.KILL_TIMED_OUT):
            self.has_process, self.coming = False, set()
        self.state, actions = step(self.state, event)
        for action in actions:
            self._act(action)

    def _act(self, action: Action) -> None:
        self.coming |= OWN_EVENTS.get(action, set())
        match action:
            case A.SPAWN:
                assert not self.has_process, "a second process"
                self.has_process, self.spawns = True, self.spawns + 1
            case A.STOP_PROCESS | A.KILL_PROCESS:
                assert self.has_process, "nothing to stop"
                self.coming -= {E.PROVEN, E.LOAD_FAILED}
            case A.OPEN_SLOTS:
                assert not self.is_open
                self.is_open = True
            case A.CLOSE_SLOTS:
                assert self.is_open
                self.is_open = False
            case A.GIVE_BACK:
                assert not self.is_open, "given back under its tasks"
                # A spawn that failed left none.
                self.has_process, self.held = False, self.held - 1
            case A.ABANDON:
                assert not self.is_open
                self.held, self.abandoned = self.held - 1, self.abandoned + 1
            case A.CANCEL_WORK:
                self.coming &= {E.EXITED}
            case A.DECIDE_NEXT:
                self.coming = set()
                self._follow()

    def _follow(self) -> None:
        following = decide_next(is_wanted=self.is_wanted, has_failed=self.has_failed)
        if following is not None:
            self.post(following)


@st.composite
def lives(draw: st.DrawFn) -> Life:
    """A replica after any history of wishes and events."""
    life = Life()
    for _ in range(draw(st.integers(0, 60))):
        is_wish, is_want = draw(st.integers(0, 3)) == 0, draw(st.booleans())
        possible = life.possible()
        if possible and not is_wish:
            life.post(draw(st.sampled_from(possible)))
        elif is_want:
            life.want()
        else:
            life.unwant()
        assert life.held == (life.state in (S.LOADING, S.READY, S.STOPPING))
        assert life.is_open == (life.state is S.READY)
        assert life.has_process == (life.state in (S.LOADING, S.READY, S.STOPPING))
    return life


@given(lives())
def test_a_wanted_replica_always_has_something_under_way(life: Life) -> None:
    """Liveness: the event that leads on is one that an action of its own will bring about."""
    if life.is_wanted and life.state is not S.READY:
        assert life.state is not S.DOWN
        assert life.coming & {event for state, event in EXPECTED if state is life.state}


@given(lives(), st.data())
def test_wanted_leads_to_a_spawn_again(life: Life, data: st.DataObject) -> None:
    """Whatever goes wrong meanwhile: a device is found in the end, and then there is a spawn."""
    life.want()
    spawns = life.spawns
    for _ in range(len(State) + 3):
        if life.state is S.READY or life.spawns > spawns:
            return
        possible = [event for event in life.possible() if event is not E.NO_FIT]
        life.post(data.draw(st.sampled_from(possible)))
    raise AssertionError(f"ends in {life.state}")


@given(lives())
def test_from_anywhere_a_replica_that_is_not_wanted_ends_in_down(life: Life) -> None:
    life.unwant()
    if life.state is S.STOPPING:
        life.post(E.EXITED)
    assert (life.state, life.held, life.is_open) == (S.DOWN, 0, False)


@given(lives())
def test_one_that_is_wanted_again_while_it_stops_does_not_wait(life: Life) -> None:
    life.unwant()
    if life.state is S.STOPPING and not life.has_failed:
        life.want()
        life.post(E.EXITED)
        assert life.state.value == S.PLACING

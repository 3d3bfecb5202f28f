"""Who gets which slot."""

from __future__ import annotations

import pytest

from orchd.engines.adapter import Done, Refused
from orchd.serving import dispatch
from orchd.serving.dispatch import Dispatcher, Grant, Slots
from orchd.serving.task import Broken, Bug, Priority, Stalled, State, Step, Task
from tests.serving.samples import make_task

INTERACTIVE, BATCH = Priority.INTERACTIVE, Priority.BATCH
BROKEN = Broken("hung up")
SPARE_VRAM_BYTES = {"a": 3, "b": 2, "c": 1}


def make_dispatcher(**replicas: int) -> Dispatcher:
    dispatcher = Dispatcher({INTERACTIVE: 100, BATCH: 100}, SPARE_VRAM_BYTES.__getitem__)
    for replica_id, total in replicas.items():
        dispatcher.open_slots(replica_id, total)
    return dispatcher


def submit(dispatcher: Dispatcher, *tasks: Task) -> list[Grant]:
    for task in tasks:
        dispatcher.queue.push(task)
    return dispatcher.dispatch()


def places(grants: list[Grant]) -> list[str]:
    return [grant.slots.replica_id for grant in grants]


def busy(dispatcher: Dispatcher, replica_id: str) -> int:
    slots = dispatcher.slots(replica_id)
    assert slots is not None
    return slots.busy


def test_grants_come_in_the_queues_order_for_as_long_as_slots_are_free() -> None:
    dispatcher = make_dispatcher(a=2, b=1)
    batch = [make_task(BATCH) for _ in range(2)]
    interactive = [make_task() for _ in range(2)]
    grants = submit(dispatcher, *batch, *interactive)
    assert [grant.task for grant in grants] == [*interactive, batch[0]]
    assert [task.state for task in batch] == [State.GRANTED, State.QUEUED]
    assert dispatcher.dispatch() == []
    dispatcher.release(grants[1])
    assert [grant.task for grant in dispatcher.dispatch()] == [batch[1]]


def test_nothing_is_granted_where_nothing_is_open() -> None:
    dispatcher = make_dispatcher()
    assert submit(dispatcher, make_task()) == []
    assert dispatcher.open_slots_total == 0
    dispatcher.open_slots("a", 3)
    assert dispatcher.open_slots_total == 3
    assert places(dispatcher.dispatch()) == ["a"]


def test_the_idlest_replica_is_taken() -> None:
    dispatcher = make_dispatcher(a=2, b=3, c=2)
    grants = submit(dispatcher, *(make_task() for _ in range(7)))
    assert places(grants) == ["b", "a", "b", "c", "a", "b", "c"]
    dispatcher.release(grants[3])
    assert places(submit(dispatcher, make_task())) == ["c"]


def test_of_those_as_idle_the_one_with_the_most_vram_to_spare_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dispatcher = make_dispatcher(c=2, b=2, a=2)
    monkeypatch.setitem(SPARE_VRAM_BYTES, "b", 4)
    assert places(submit(dispatcher, make_task())) == ["b"]
    # As of now: a neighbour may have taken some since.
    monkeypatch.setitem(SPARE_VRAM_BYTES, "c", 9)
    grants = submit(dispatcher, *(make_task() for _ in range(5)))
    assert places(grants) == ["c", "a", "c", "b", "a"]


def test_a_session_goes_back_to_its_replica_while_that_has_a_slot_free() -> None:
    dispatcher = make_dispatcher(a=2, b=4)
    (first,) = submit(dispatcher, make_task(session_id="s"))
    assert first.slots.replica_id == "b"
    dispatcher.release(first)
    others = submit(dispatcher, *(make_task() for _ in range(3)))
    assert places(others) == ["b", "b", "a"]
    (again,) = submit(dispatcher, make_task(session_id="s"))
    assert again.slots.replica_id == "b"


def test_a_session_does_not_wait_for_its_replica_and_moves_on() -> None:
    dispatcher = make_dispatcher(a=1, b=1)
    (first,) = submit(dispatcher, make_task(session_id="s"))
    assert first.slots.replica_id == "a"
    (second,) = submit(dispatcher, make_task(session_id="s"))
    assert second.slots.replica_id == "b"
    dispatcher.release(first)
    dispatcher.release(second)
    assert places(submit(dispatcher, make_task(session_id="s"))) == ["b"]


def test_a_replica_that_opens_again_has_lost_its_sessions() -> None:
    dispatcher = make_dispatcher(a=2)
    (grant,) = submit(dispatcher, make_task(session_id="s"))
    dispatcher.release(grant)
    dispatcher.close_slots("a")
    dispatcher.open_slots("a", 1)
    dispatcher.open_slots("b", 2)
    assert places(submit(dispatcher, make_task(session_id="s"))) == ["b"]


def test_the_memory_of_sessions_is_bounded_and_the_longest_unused_goes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "MAX_SESSIONS", 2)
    dispatcher = make_dispatcher(a=9, b=9)
    for session_id in ("s1", "s2", "s1", "s3"):
        for grant in submit(dispatcher, make_task(session_id=session_id)):
            dispatcher.release(grant)
    assert list(dispatcher._sessions) == ["s1", "s3"]


def test_a_closed_replica_is_granted_nothing_and_its_tasks_give_back() -> None:
    dispatcher = make_dispatcher(a=2)
    grants = submit(dispatcher, *(make_task() for _ in range(3)))
    dispatcher.close_slots("a")
    dispatcher.close_slots("a")
    assert dispatcher.slots("a") is None
    for grant in grants:
        dispatcher.release(grant)
        assert dispatcher.dispatch() == []
    assert grants[0].slots.busy == 0


def test_old_grants_do_not_touch_a_replica_that_opened_again() -> None:
    dispatcher = make_dispatcher(a=1)
    (old,) = submit(dispatcher, make_task())
    dispatcher.close_slots("a")
    dispatcher.open_slots("a", 1)
    (new,) = submit(dispatcher, make_task(), make_task())
    assert busy(dispatcher, "a") == 1
    dispatcher.doubt(old, BROKEN)
    dispatcher.release(old)
    assert (busy(dispatcher, "a"), dispatcher.dispatch()) == (1, [])
    dispatcher.release(new)
    assert places(dispatcher.dispatch()) == ["a"]


def test_a_slot_is_given_back_once() -> None:
    dispatcher = make_dispatcher(a=2)
    grant, _ = submit(dispatcher, make_task(), make_task())
    dispatcher.release(grant)
    with pytest.raises(AssertionError, match="given back twice"):
        dispatcher.release(grant)
    assert busy(dispatcher, "a") == 1


def test_a_replica_is_opened_once() -> None:
    dispatcher = make_dispatcher(a=1)
    with pytest.raises(AssertionError, match="open already"):
        dispatcher.open_slots("a", 1)


def test_a_doubted_replica_is_granted_nothing_until_all_doubts_are_settled() -> None:
    """Not the one slot: whatever else is granted on a dead replica breaks as well."""
    dispatcher = make_dispatcher(a=4, b=1)
    first, second, other = submit(dispatcher, *(make_task(session_id="s") for _ in range(3)))
    assert places([first, second, other]) == ["a", "a", "a"]
    dispatcher.doubt(first, BROKEN)
    dispatcher.doubt(second, BROKEN)
    with pytest.raises(AssertionError, match="a doubt without a grant"):
        dispatcher.doubt(first, BROKEN)
    assert places(submit(dispatcher, make_task(session_id="s"), make_task())) == ["b"]
    dispatcher.release(other)
    assert dispatcher.dispatch() == []
    dispatcher.release(first)
    assert dispatcher.dispatch() == []
    dispatcher.release(second)
    assert places(dispatcher.dispatch()) == ["a"]
    with pytest.raises(AssertionError, match="a doubt without a grant"):
        dispatcher.doubt(second, BROKEN)


def test_a_task_that_is_put_back_is_granted_again_first() -> None:
    dispatcher = make_dispatcher(a=1)
    first, second = make_task(), make_task()
    (grant,) = submit(dispatcher, first, second)
    first.step(Step.REQUEUE)
    dispatcher.queue.put_back(first)
    dispatcher.release(grant)
    assert [grant.task for grant in dispatcher.dispatch()] == [first]


@pytest.mark.parametrize(("total", "most"), [(1, 2), (2, 2), (4, 4)])
def test_a_replica_that_breaks_more_in_a_row_than_it_can_have_at_once_is_at_fault(
    total: int, most: int
) -> None:
    slots = Slots("a", total)
    for n in range(most):
        slots.note_outcome(Broken(f"said {n}"))
        assert slots.fault is None
    slots.note_outcome(Broken("hung up"))
    assert slots.fault == f"broke tasks {most + 1} times in a row, the last: hung up"


@pytest.mark.parametrize("good", [Done("stop", 1, 1, 1), Refused("no")])
def test_one_task_that_it_ends_itself_redeems_a_replica(good: Done | Refused) -> None:
    slots = Slots("a", 1)
    for outcome in (BROKEN, BROKEN, good, BROKEN, BROKEN):
        slots.note_outcome(outcome)
        assert slots.fault is None


@pytest.mark.parametrize("other", [Stalled(60), Bug(), Refused("later", True)])
def test_what_is_no_break_is_none_and_redeems_nobody(other: Stalled | Bug | Refused) -> None:
    slots = Slots("a", 1)
    for outcome in (BROKEN, other, BROKEN, other):
        slots.note_outcome(outcome)
        assert slots.fault is None
    slots.note_outcome(BROKEN)
    assert slots.fault is not None


def test_a_retired_replica_is_granted_nothing_and_goes_on_with_what_it_has() -> None:
    dispatcher = make_dispatcher(a=2, b=1)
    (grant,) = submit(dispatcher, make_task(session_id="s"))
    assert places([grant]) == ["a"]
    slots = dispatcher.retire_slots("a")
    assert (dispatcher.open_slots_total, slots.free, slots.is_idle) == (1, 0, False)
    assert places(submit(dispatcher, make_task(session_id="s"), make_task())) == ["b"]
    dispatcher.release(grant)
    assert (dispatcher.dispatch(), slots.is_idle) == ([], True)
    assert dispatcher.slots("a") is slots, "it is there until it is closed"

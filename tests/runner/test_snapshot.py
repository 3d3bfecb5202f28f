"""How one moment of the GPUs follows from another: quarantine, return, and who is who."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.snapshot import (
    UNSEEN,
    VANISHED,
    Gpu,
    NoReading,
    Reading,
    Snapshot,
    Unread,
    follow,
)
from tests.runner.gpus import GIB, gpu

TWO = (gpu(0, 8), gpu(1, 24))
LOST = Unread("has fallen off the bus", is_lost=True)


def moments(*readings: Reading | NoReading) -> Snapshot:
    snapshot = UNSEEN
    for reading in readings:
        snapshot = follow(snapshot, reading)
    return snapshot


def test_what_is_read_is_told_in_its_order() -> None:
    snapshot = moments(TWO)
    assert snapshot.gpus == TWO
    assert (snapshot.quarantined, snapshot.reason) == ((), None)
    assert snapshot.order == ("GPU-0", "GPU-1")
    assert (snapshot.find("GPU-1"), snapshot.find("GPU-9")) == (TWO[1], None)


def test_one_that_errs_is_quarantined_and_the_other_is_not_touched() -> None:
    snapshot = moments(TWO, (Unread("cannot be read"), TWO[1]))
    assert snapshot.gpus == (TWO[1],)
    (held,) = snapshot.quarantined
    assert (held.uuid, held.index, held.name) == ("GPU-0", 0, "card 0")
    assert (held.total_bytes, held.reason, held.is_lost) == (8 * GIB, "cannot be read", False)
    assert snapshot.find_quarantined("GPU-0") is held
    assert moments(TWO, (Unread("cannot be read"), TWO[1]), TWO).gpus == TWO


def test_loss_is_believed_in_the_second_reading_in_a_row() -> None:
    assert not moments(TWO, (LOST, TWO[1])).quarantined[0].is_lost
    assert moments(TWO, (LOST, TWO[1]), (LOST, TWO[1])).quarantined[0].is_lost
    between = (Unread("cannot be read"), TWO[1])
    assert not moments(TWO, (LOST, TWO[1]), between, (LOST, TWO[1])).quarantined[0].is_lost
    assert not moments(TWO, (LOST, TWO[1]), TWO, (LOST, TWO[1])).quarantined[0].is_lost


def test_one_that_is_not_listed_any_more_has_vanished_and_keeps_its_index() -> None:
    moved = replace(TWO[1], index=0)
    snapshot = moments(TWO, (moved,), (moved,))
    assert snapshot.gpus == (TWO[1],)
    (held,) = snapshot.quarantined
    assert (held.uuid, held.index, held.reason, held.is_lost) == ("GPU-0", 0, VANISHED, True)
    assert moments(TWO, (moved,), TWO) == moments(TWO)


def test_one_that_does_not_tell_its_uuid_is_known_by_its_bus_or_its_place() -> None:
    by_bus = moments(TWO, (TWO[1], Unread("errs", pci_bus_id="bus 0")))
    assert [held.uuid for held in by_bus.quarantined] == ["GPU-0"]
    by_place = moments(TWO, (TWO[0], Unread("errs")))
    assert [held.uuid for held in by_place.quarantined] == ["GPU-1"]
    longer = moments(TWO, (*TWO, Unread("errs")))
    assert [(held.uuid, held.index) for held in longer.quarantined] == [(None, 2)]


def test_a_place_is_not_trusted_where_its_gpu_is_elsewhere() -> None:
    snapshot = moments(TWO, (Unread("errs"), TWO[0]))
    assert snapshot.gpus == (TWO[0],)
    assert [held.uuid for held in snapshot.quarantined] == [None, "GPU-1"]


def test_one_that_never_could_be_read_is_told_with_its_reason() -> None:
    snapshot = moments((Unread("is divided", uuid="GPU-0"), TWO[1], LOST))
    assert [(held.uuid, held.index, held.name) for held in snapshot.quarantined] == [
        ("GPU-0", 0, None),
        (None, 2, None),
    ]
    again = moments((Unread("is divided", uuid="GPU-0"), TWO[1], LOST), (gpu(0, 8), TWO[1]))
    assert (again.gpus, again.quarantined) == (TWO, ())


def test_a_driver_that_tells_nothing_quarantines_all_and_loses_none() -> None:
    snapshot = moments(TWO, NoReading("no driver"), NoReading("no driver"))
    assert (snapshot.gpus, snapshot.reason) == ((), "no driver")
    assert [(held.uuid, held.reason, held.is_lost) for held in snapshot.quarantined] == [
        ("GPU-0", "no driver", False),
        ("GPU-1", "no driver", False),
    ]
    assert moments(TWO, NoReading("no driver"), TWO) == moments(TWO)
    assert moments(NoReading("no driver")) == Snapshot(reason="no driver")


def test_a_new_card_gets_an_index_that_nobody_has() -> None:
    snapshot = moments((TWO[1],), (gpu(7, 8), TWO[1]))
    assert {each.uuid: each.index for each in snapshot.gpus} == {"GPU-1": 0, "GPU-7": 1}


@pytest.mark.parametrize(
    ("held", "told"),
    [
        pytest.param({}, None, id="not listed"),
        pytest.param({5: 2.0}, 2 * GIB, id="told"),
        pytest.param({5: None}, None, id="N/A"),
        pytest.param({6: 2.0}, None, id="another's"),
    ],
)
def test_what_a_session_holds_is_known_only_where_it_is_told(
    held: dict[int, float | None], told: int | None
) -> None:
    assert gpu(0, 8, held=held).bytes_of(5) == told


def test_the_processes_of_a_session_are_summed_unless_one_is_not_told() -> None:
    both = gpu(0, 8, held={5: 1.0, 6: 2.0})
    first, second = both.processes
    one_session = replace(both, processes=(first, replace(second, session=5)))
    assert one_session.bytes_of(5) == 3 * GIB
    untold = replace(second, session=5, used_bytes=None)
    assert replace(both, processes=(first, untold)).bytes_of(5) is None


# -- whatever the driver tells -----------------------------------------------------------------

numbers = st.integers(0, 5)
uuids = st.sampled_from([None, *(f"GPU-{n}" for n in range(6))])
unread = st.builds(Unread, st.just("errs"), st.booleans(), uuids, st.none())


@st.composite
def readings(draw: st.DrawFn) -> Reading | NoReading:
    if draw(st.integers(0, 5)) == 0:
        return NoReading("no driver")
    cards: list[Gpu | Unread] = [gpu(n, 8) for n in draw(st.lists(numbers, unique=True))]
    told = {card.uuid for card in cards}
    for item in draw(st.lists(unread, max_size=3)):
        if item.uuid is None or item.uuid not in told:
            told.add(item.uuid)
            cards.insert(draw(st.integers(0, len(cards))), item)
    return tuple(cards)


@given(st.lists(readings(), max_size=8))
def test_a_gpu_once_seen_is_never_forgotten_doubled_or_renamed(
    history: list[Reading | NoReading],
) -> None:
    snapshot, indexes = UNSEEN, dict[str, int]()
    for reading in history:
        snapshot = follow(snapshot, reading)
        now = [each.uuid for each in snapshot.each() if each.uuid is not None]
        assert len(now) == len(set(now))
        assert set(indexes) <= set(now)
        for each in snapshot.each():
            if each.uuid is not None:
                assert indexes.setdefault(each.uuid, each.index) == each.index
        assert len(set(indexes.values())) == len(indexes)
        if not isinstance(reading, NoReading):
            read = {item.uuid for item in reading if isinstance(item, Gpu)}
            assert {each.uuid for each in snapshot.gpus} == read

"""What was promised, what of it is in use, and what a load took."""

from __future__ import annotations

from orchd.runner.ledger import (
    SLACK_BYTES,
    Holding,
    Ledger,
    Rise,
    measure_rise,
    note_exit,
    wanted_rise_bytes,
)
from orchd.runner.snapshot import Snapshot
from tests.runner.gpus import GIB, gpu, seen

CARD = gpu(0, 24, free_gib=13, held={5: 8.0, 6: None})


def none_held(pid: int) -> int:
    return 0


def used_of(ledger: Ledger, snapshot: Snapshot) -> list[int]:
    return [held.used_bytes // GIB for held in ledger.reservations(snapshot, none_held)]


def loading(size_gib: int = 10, model_gib: int = 8, **fields: object) -> Holding:
    holding = Holding("p", "r", "GPU-0", size_gib * GIB, model_gib * GIB, is_loading=True)
    for name, value in fields.items():
        setattr(holding, name, value)
    return holding


def test_what_is_reserved_counts_until_it_is_released_and_never_for_itself() -> None:
    ledger = Ledger()
    first = ledger.reserve("a", "a-0", "GPU-0", 10 * GIB, 0)
    second = ledger.reserve("b", "b-0", "GPU-0", 4 * GIB, 0)
    told = ledger.reservations(seen(CARD), none_held)
    assert [(held.replica_id, held.size_bytes) for held in told] == [
        ("a-0", 10 * GIB),
        ("b-0", 4 * GIB),
    ]
    (other,) = ledger.reservations(seen(CARD), none_held, without=first)
    assert other.replica_id == "b-0"
    ledger.release(first)
    ledger.release(second)
    assert ledger.is_empty


def test_in_use_is_what_the_driver_tells_or_what_was_measured_and_else_nothing() -> None:
    ledger = Ledger()
    holding = ledger.reserve("a", "a-0", "GPU-0", 10 * GIB, 0)
    assert used_of(ledger, seen(CARD)) == [0]
    holding.session = 5
    assert used_of(ledger, seen(CARD)) == [8]
    holding.session = 6
    assert used_of(ledger, seen(CARD)) == [0], "N/A is no figure"
    holding.rise_bytes = 9 * GIB
    assert used_of(ledger, seen(CARD)) == [9]
    assert used_of(ledger, Snapshot()) == [9], "also while its card cannot be read"


def test_on_the_cpu_in_use_is_what_the_process_holds() -> None:
    ledger = Ledger()
    ledger.reserve("a", "a-0", "cpu", 10, 0).session = 77
    (held,) = ledger.reservations(Snapshot(), lambda pid: {77: 4}[pid])
    assert (held.used_bytes, held.unused_bytes) == (4, 6)


def test_who_loads_on_a_card_is_known() -> None:
    ledger = Ledger()
    holding = ledger.reserve("a", "a-0", "GPU-0", 1, 1)
    assert ledger.loading_on("GPU-0") is None
    holding.is_loading = True
    assert ledger.loading_on("GPU-0") is holding
    assert ledger.loading_on("GPU-1") is None


def test_a_rise_is_the_drivers_own_figure_or_what_is_used_more_than_before() -> None:
    assert measure_rise(loading(session=5), CARD) == Rise(8 * GIB, True)
    assert measure_rise(loading(session=6, baseline_bytes=GIB), CARD) == Rise(10 * GIB, False)
    assert measure_rise(loading(session=7, baseline_bytes=20 * GIB), CARD) == Rise(0, False)


def test_half_of_the_weights_proves_a_load_or_half_of_a_smaller_need() -> None:
    assert wanted_rise_bytes(loading(size_gib=10, model_gib=8)) == 4 * GIB
    assert wanted_rise_bytes(loading(size_gib=6, model_gib=40)) == 3 * GIB
    assert wanted_rise_bytes(loading(size_gib=20, model_gib=4)) == 2 * GIB


# -- what counts as given back; 11 GiB of the card are in use -----------------------------------


def test_a_load_that_failed_is_back_where_it_began() -> None:
    holding = loading(baseline_bytes=3 * GIB)
    assert note_exit(holding, CARD, None) == 3 * GIB + SLACK_BYTES
    assert holding.rise_bytes == 8 * GIB


def test_one_that_served_gives_back_what_it_was_measured_at() -> None:
    holding = loading(rise_bytes=8 * GIB, is_loading=False)
    assert note_exit(holding, CARD, None) == 3 * GIB + 8 * GIB // 10
    small = loading(rise_bytes=SLACK_BYTES, is_loading=False)
    assert note_exit(small, CARD, None) == 11 * GIB


def test_one_that_was_gone_when_its_card_was_read_is_not_taken_off_twice() -> None:
    """With a neighbour of 3 GiB; the card is read before or after its end is heard of."""
    before, after = gpu(0, 24, free_gib=13, held={5: 8.0}), gpu(0, 24, free_gib=21, held={7: 3.0})
    ledger = Ledger()
    holding = ledger.reserve("a", "a-0", "GPU-0", 10 * GIB, 8 * GIB)
    holding.session, holding.rise_bytes = 5, 8 * GIB
    ledger.see(seen(before))
    ledger.see(seen(after))
    assert note_exit(holding, before, None) == 3 * GIB + 8 * GIB // 10
    assert note_exit(holding, after, None) == 3 * GIB + 8 * GIB // 10
    # A driver that lags has its memory in use for a while, and nobody's.
    lagging = gpu(0, 24, free_gib=13, held={7: 3.0})
    assert note_exit(holding, lagging, None) == 3 * GIB + 8 * GIB // 10


def test_during_anothers_load_that_one_may_rise_and_its_baseline_sinks() -> None:
    holding = loading(rise_bytes=8 * GIB, is_loading=False)
    other = loading(size_gib=2, baseline_bytes=10 * GIB)
    assert note_exit(holding, CARD, other) == 3 * GIB + 8 * GIB // 10 + 2 * GIB
    assert other.baseline_bytes == 2 * GIB


# -- claims ------------------------------------------------------------------------------------


def kept(ledger: Ledger, for_pool: str | None) -> dict[str, int]:
    """What counts for a pool, in GiB by its owner."""
    told = ledger.reservations(seen(gpu(0, 24)), lambda pid: 0, for_pool=for_pool)
    return {each.replica_id: each.size_bytes // GIB for each in told}


def test_a_claim_counts_for_others_as_far_as_its_pool_holds_less() -> None:
    ledger = Ledger()
    old = ledger.reserve("a", "a-0", "GPU-0", 6 * GIB, 0)
    ledger.reserve("b", "b-0", "GPU-0", 2 * GIB, 0)
    ledger.claims["a"] = {"GPU-0": 8 * GIB, "GPU-1": 3 * GIB}
    assert not ledger.is_empty
    both = {"a-0": 6, "b-0": 2}
    assert kept(ledger, "a") == both
    told = ledger.reservations(seen(gpu(0, 24)), lambda pid: 0, for_pool="b")
    claims = [(e.device, e.size_bytes // GIB) for e in told if e.replica_id == "the reload of a"]
    assert claims == [("GPU-0", 2), ("GPU-1", 3)]
    ledger.release(old)
    ledger.claims["a"] = {"GPU-0": 8 * GIB}
    assert kept(ledger, None) == {"b-0": 2, "the reload of a": 8}
    ledger.reserve("a", "a-1", "GPU-0", 9 * GIB, 0)
    assert kept(ledger, "b") == {"b-0": 2, "a-1": 9}, "it holds more than it claimed"
    del ledger.claims["a"]
    assert kept(ledger, "b") == {"b-0": 2, "a-1": 9}

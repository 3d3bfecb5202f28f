"""Waiting for memory that a driver gives back late, or never."""

from __future__ import annotations

import asyncio
import logging

import pytest

from orchd.runner.ledger import Holding, note_exit
from orchd.runner.returns import Returns
from orchd.runner.snapshot import Snapshot
from tests.conftest import Drive
from tests.runner.gpus import GIB, gpu, seen
from tests.runner.stage import until


class Card:
    """One card of 24 GiB, sampled as often as it is asked for."""

    def __init__(self, used_gib: float, timeout_s: float = 30.0) -> None:
        self.used_gib: float | None = used_gib
        self.samples = 0
        self.released: list[str] = []
        self.returns = Returns(
            *(self.fresh, lambda holding: self.released.append(holding.replica_id), timeout_s),
            resample_s=0.001,
        )

    def snapshot(self) -> Snapshot:
        return seen() if self.used_gib is None else seen(gpu(0, 24, 24 - self.used_gib))

    async def fresh(self) -> Snapshot:
        self.samples += 1
        await asyncio.sleep(0)
        return self.snapshot()


def gone(name: str = "a-0", rise_gib: int = 8) -> Holding:
    return Holding("chat", name, "GPU-0", rise_gib * GIB, 0, rise_bytes=rise_gib * GIB)


def test_memory_that_is_back_at_once_ends_it_with_one_sample(drive: Drive[None]) -> None:
    async def scenario() -> None:
        card = Card(used_gib=1)
        card.returns.begin(gone(), 1 * GIB)
        assert card.returns.is_outstanding("GPU-0")
        await card.returns.settle("GPU-0")
        assert (card.released, card.samples, card.returns.owed) == (["a-0"], 1, {})

    drive(scenario())


def test_it_ends_when_the_memory_is_seen_to_be_back_and_not_before(drive: Drive[None]) -> None:
    async def scenario() -> None:
        card = Card(used_gib=9)
        card.returns.begin(gone(), 1 * GIB)
        await until(lambda: card.samples >= 2)
        assert card.released == []
        card.used_gib = 1
        await card.returns.settle("GPU-0")
        assert card.released == ["a-0"]

    drive(scenario())


def test_what_never_comes_back_is_noted_and_struck_out_when_it_does(
    drive: Drive[None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        card = Card(used_gib=9, timeout_s=0.01)
        card.returns.begin(gone(), 1 * GIB)
        await card.returns.settle("GPU-0")
        assert card.released == ["a-0"]
        owed = card.returns.owed["GPU-0"]
        assert owed.reason == "did not give back 8.0 GiB of a-0, which is gone"
        assert "did not give back 8.0 GiB of a-0, which is gone device=GPU-0" in caplog.text
        card.returns.look(card.snapshot())
        assert "GPU-0" in card.returns.owed
        card.used_gib = None
        card.returns.look(card.snapshot())
        assert "GPU-0" in card.returns.owed
        card.used_gib = 1
        card.returns.look(card.snapshot())
        assert card.returns.owed == {}

    drive(scenario())


def test_a_card_that_cannot_be_read_any_more_owes_nothing(drive: Drive[None]) -> None:
    async def scenario() -> None:
        card = Card(used_gib=9)
        card.used_gib = None
        card.returns.begin(gone(), 1 * GIB)
        await card.returns.settle("GPU-0")
        assert (card.released, card.returns.owed) == (["a-0"], {})

    drive(scenario())


def test_two_that_are_gone_are_both_waited_for(drive: Drive[None]) -> None:
    """Each was seen with the other still there, so each alone would be content too early."""

    async def scenario() -> None:
        card = Card(used_gib=17)
        card.returns.begin(gone("a-0", 8), 9 * GIB)
        card.returns.begin(gone("b-0", 8), 9 * GIB)
        card.used_gib = 9
        seen_so_far = card.samples
        await until(lambda: card.samples >= seen_so_far + 2)
        assert card.released == []
        card.used_gib = 1
        await card.returns.settle("GPU-0")
        assert card.released == ["a-0", "b-0"]

    drive(scenario())


def test_a_load_that_fails_while_others_memory_is_outstanding(drive: Drive[None]) -> None:
    """Beside a neighbour of 4 GiB two of 3 GiB go, and then one that was loading and had taken 3:
    no more than what is theirs is waited for."""

    async def scenario() -> None:
        card = Card(used_gib=13)
        loading = Holding("chat", "d-0", "GPU-0", 3 * GIB, 0, baseline_bytes=10 * GIB)
        loading.is_loading = True
        (seen_gpu,) = card.snapshot().gpus
        for name in ("b-0", "c-0"):
            holding = gone(name, 3)
            card.returns.begin(holding, note_exit(holding, seen_gpu, loading))
        card.returns.begin(loading, note_exit(loading, seen_gpu, None))
        seen_so_far = card.samples
        await until(lambda: card.samples >= seen_so_far + 2)
        assert card.released == []
        card.used_gib = 4
        async with asyncio.timeout(10):
            await card.returns.settle("GPU-0")
        assert (card.released, card.returns.owed) == (["b-0", "c-0", "d-0"], {})

    drive(scenario())


@pytest.mark.parametrize("turns", [0, 1, 2, 5])
def test_a_stop_releases_everything_at_whatever_moment(drive: Drive[None], turns: int) -> None:
    async def scenario() -> None:
        card = Card(used_gib=9)
        card.returns.begin(gone("a-0"), 1 * GIB)
        card.returns.begin(gone("b-0"), 1 * GIB)
        for _ in range(turns):
            await asyncio.sleep(0)
        await card.returns.stop()
        assert card.released == ["a-0", "b-0"]
        assert not card.returns.is_outstanding("GPU-0")

    drive(scenario())

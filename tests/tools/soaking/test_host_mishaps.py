"""Whatever befalls the machine is over once it is: however many of a kind were there at once."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from soaking import host_mishaps
from soaking.book import Book
from soaking.pools import HURT_CARDS

from tests.fakes.nvml import FakeNvml, card

SEEDS = range(40)
"""Enough for every kind on every card."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Any]:
    """A machine that is sound, with a process that stands for the daemon."""
    cards = [card(n, 4.0) for n in range(max(HURT_CARDS) + 1)]
    log = tmp_path / "daemon.log"
    log.write_text("a line\n")
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as stands_for_it:
        nvml = FakeNvml(tmp_path / "machine", list(cards))
        world = SimpleNamespace(nvml=nvml, cards=tuple(cards), log=log)
        stand = SimpleNamespace(pid=stands_for_it.pid)
        yield SimpleNamespace(world=world, stand=stand, book=Book())
        assert stands_for_it.stdin is not None
        stands_for_it.stdin.write(b"\n")


async def begin(befall: Callable[[Any, Random], Awaitable[None]], scene: Any, seed: int) -> Any:
    task = asyncio.ensure_future(befall(scene, Random(seed)))
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize(
    "befall",
    [host_mishaps.hurt_a_card, host_mishaps.hurt_the_driver, host_mishaps.fill_the_disk],
)
def test_two_of_a_kind_that_overlap_leave_nothing_behind(
    scene: Any, befall: Callable[[Any, Random], Awaitable[None]]
) -> None:
    def look() -> tuple[object, ...]:
        limits = resource.prlimit(scene.stand.pid, resource.RLIMIT_FSIZE)
        settings = {name: value for name, value in scene.world.nvml.settings.items() if value}
        return limits, list(scene.world.nvml.cards), settings

    async def overlap(seed: int) -> None:
        first = await begin(befall, scene, seed)
        assert look() != sound, "nothing befell"
        second = await begin(befall, scene, seed)
        for one in (first, second):
            one.cancel()
            await asyncio.wait([one])

    sound = look()
    for seed in SEEDS:
        asyncio.run(overlap(seed))
        assert look() == sound
    if befall is host_mishaps.hurt_a_card:
        assert set(scene.book.faults) == set(host_mishaps.CARD_FAULTS)

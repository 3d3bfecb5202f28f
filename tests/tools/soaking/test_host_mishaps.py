"""What befalls the machine passes, also where two of a kind befall it at once."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from soaking import host_mishaps
from soaking.book import Book
from soaking.world import World

from tests.fakes.clock import FakeClock
from tests.fakes.nvml import FakeNvml, card


@dataclass
class Machine:
    """As much of a scene as these need."""

    world: World
    stand: Any
    book: Book


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setattr(host_mishaps, "SPAN_MAX_S", 0.6)
    cards = tuple(card(n, 2) for n in range(4))
    world = World(tmp_path, FakeNvml(tmp_path / "machine", list(cards)), cards, FakeClock(tmp_path))
    world.log.touch()
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        yield Machine(world, process, Book())


async def befall(
    machine: Machine, mishap: Callable[[Any, Random], Awaitable[None]], *seeds: int
) -> None:
    """One for each seed; each begins while those before last."""
    mishaps = []
    for seed in seeds:
        mishaps.append(asyncio.ensure_future(mishap(machine, Random(seed))))
        await asyncio.sleep(0.05)
    await asyncio.gather(*mishaps)


def test_cards_are_well_again(machine: Machine) -> None:
    asyncio.run(befall(machine, host_mishaps.hurt_a_card, *range(12)))
    assert len(machine.book.faults) == len(host_mishaps.CARD_FAULTS)
    assert tuple(machine.world.nvml.cards) == machine.world.cards


def test_the_driver_is_well_again(machine: Machine) -> None:
    asyncio.run(befall(machine, host_mishaps.hurt_the_driver, *range(6)))
    assert len(machine.book.faults) == len(host_mishaps.MACHINE_FAULTS)
    assert set(machine.world.nvml.settings.values()) == {0}


def test_the_disk_has_room_again(machine: Machine) -> None:
    asyncio.run(befall(machine, host_mishaps.fill_the_disk, *range(4)))
    assert len(machine.book.faults) == 2
    limits = resource.prlimit(machine.stand.pid, resource.RLIMIT_FSIZE)
    assert limits == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

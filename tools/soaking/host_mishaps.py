"""What befalls the machine: its cards, its disk, its clock."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Mapping
from random import Random

from soaking.pools import HURT_CARDS
from soaking.scene import Scene

LOST = 15
"""NVML_ERROR_GPU_IS_LOST."""
UNKNOWN = 999
SPAN_MAX_S = 6.0

CARD_FAULTS: Mapping[str, Mapping[str, object]] = {
    "card falls off the bus": {"handle_code": LOST},
    "card's memory cannot be read": {"memory_code": UNKNOWN},
    "card's use cannot be read": {"utilization_code": UNKNOWN, "untold": 1},
    "card is filled by others": {"used_mib": 2000},
    "card's memory is more than it has": {"used_mib": 5000},
}
MACHINE_FAULTS: Mapping[str, Mapping[str, int]] = {
    "NVML hangs": {"hang": 1},
    "NVML is slow": {"delay_ms": 300},
    "NVML counts no cards": {"count_code": UNKNOWN},
}


async def hurt_a_card(scene: Scene, dice: Random) -> None:
    kind, place = dice.choice(list(CARD_FAULTS)), dice.choice(HURT_CARDS)
    span_s = dice.uniform(0.5, SPAN_MAX_S)
    nvml = scene.world.nvml
    # Not as it was before: it may be hurt by another mishap at the time, which ends earlier.
    well = {name: getattr(scene.world.cards[place], name) for name in CARD_FAULTS[kind]}
    scene.book.fault(kind, f"GPU {place}, {span_s:.1f} s")
    nvml.change(place, **CARD_FAULTS[kind])
    try:
        await asyncio.sleep(span_s)
    finally:
        nvml.change(place, **well)


async def hurt_the_driver(scene: Scene, dice: Random) -> None:
    kind = dice.choice(list(MACHINE_FAULTS))
    span_s = dice.uniform(0.5, SPAN_MAX_S / 2)
    scene.book.fault(kind, f"{span_s:.1f} s")
    nvml = scene.world.nvml
    nvml.write(**MACHINE_FAULTS[kind])
    try:
        await asyncio.sleep(span_s)
    finally:
        nvml.write(**dict.fromkeys(MACHINE_FAULTS[kind], 0))


async def restart_the_driver(scene: Scene, dice: Random) -> None:
    """All that was opened before is stale."""
    scene.book.fault("NVML's handles become stale")
    nvml = scene.world.nvml
    nvml.write(epoch=nvml.settings.get("epoch", 0) + 1)


async def fill_the_disk(scene: Scene, dice: Random) -> None:
    """No file of the daemon's may become longer than its log is now: EFBIG, as ENOSPC elsewhere. An
    engine that is started meanwhile inherits that."""
    is_everywhere, span_s = dice.random() < 0.5, dice.uniform(0.5, SPAN_MAX_S / 2)
    size_bytes = 0 if is_everywhere else scene.world.log.stat().st_size
    scene.book.fault(
        "disk is full" if is_everywhere else "disk of the log is full", f"{span_s:.1f} s"
    )
    _, most_bytes = resource.prlimit(scene.stand.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(scene.stand.pid, resource.RLIMIT_FSIZE, (size_bytes, most_bytes))
    try:
        await asyncio.sleep(span_s)
    finally:
        resource.prlimit(scene.stand.pid, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))


async def move_the_clock(scene: Scene, dice: Random) -> None:
    by_s = dice.choice((-86_400, -3600, -1, 1, 3600, 86_400))
    scene.book.fault("clock jumps", f"{by_s} s")
    scene.world.clock.jump(by_s)

"""Every kind of fault that is thrown at the daemon, with its share of all of them, as a table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from random import Random

from soaking import engine_mishaps, host_mishaps, reloads, strangers
from soaking.scene import Scene
from soaking.strangers import Stranger

MEAN_S = 0.5
"""Between two of them."""


@dataclass(frozen=True, slots=True)
class Mishap:
    """One kind, or a family of them. Its dice are its own, so that what is drawn does not depend on
    who else draws meanwhile."""

    share: int
    befall: Callable[[Scene, Random], Awaitable[None]]


def _of_stranger(kind: str, behave: Callable[[Stranger], Awaitable[None]]) -> Mishap:
    async def befall(scene: Scene, dice: Random) -> None:
        scene.book.fault(kind)
        async with scene.client.contain(kind):
            await behave(Stranger(scene.client, scene.book, dice))

    return Mishap(strangers.HABITS[kind][0], befall)


MISHAPS = (
    Mishap(1, engine_mishaps.kill),
    Mishap(1, engine_mishaps.abort),
    Mishap(1, engine_mishaps.terminate),
    Mishap(1, engine_mishaps.deafen),
    Mishap(1, engine_mishaps.stop_for_ever),
    Mishap(4, engine_mishaps.stop_for_a_while),
    # Of many kinds, and each of these kills an engine too.
    Mishap(4, engine_mishaps.spoil_loads),
    Mishap(1, engine_mishaps.take_the_model_away),
    Mishap(1, engine_mishaps.cut_the_model_short),
    Mishap(2, engine_mishaps.steal_the_port),
    Mishap(5, host_mishaps.hurt_a_card),
    Mishap(3, host_mishaps.hurt_the_driver),
    Mishap(1, host_mishaps.restart_the_driver),
    Mishap(3, host_mishaps.fill_the_disk),
    Mishap(3, host_mishaps.move_the_clock),
    Mishap(8, reloads.reload_well),
    Mishap(6, reloads.reload_badly),
    Mishap(2, reloads.storm),
    Mishap(2, reloads.hang_up),
    *(_of_stranger(kind, behave) for kind, (_, behave) in strangers.HABITS.items()),
)


def plan(seed: int) -> Iterator[tuple[float, Mishap, Random]]:
    """For ever: how long to wait, what befalls then, and its dice. The same for the same seed."""
    dice = Random(seed)
    while True:
        pause_s = dice.expovariate(1 / MEAN_S)
        mishap = dice.choices(MISHAPS, [mishap.share for mishap in MISHAPS])[0]
        yield pause_s, mishap, Random(dice.getrandbits(64))

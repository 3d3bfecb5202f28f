"""What is thrown at the daemon: the same for the same seed, and never at a pool that is spared."""

from __future__ import annotations

from itertools import islice
from random import Random

from soaking import engine_mishaps, reloads
from soaking.mishaps import MISHAPS, plan
from soaking.pools import BY_ID, HURT_CARDS, POOLS
from soaking.visitors import invite

DRAWS = 500


def test_a_seed_plans_the_same_again() -> None:
    def draw(seed: int) -> list[tuple[float, int, int]]:
        planned = islice(plan(seed), DRAWS)
        return [
            (pause_s, MISHAPS.index(one), dice.getrandbits(64)) for pause_s, one, dice in planned
        ]

    assert draw(1) == draw(1) != draw(2)
    assert {index for _, index, _ in draw(1)} == set(range(len(MISHAPS))), "some kinds never come"


def test_a_spared_pool_is_left_alone() -> None:
    spared = [pool for pool in POOLS if pool.is_spared]
    assert spared and not {card for pool in spared for card in pool.cards} & set(HURT_CARDS)
    dice = Random(1)
    drawn = {engine_mishaps.draw_pool(dice).pool_id for _ in range(DRAWS)}
    drawn |= {engine_mishaps.draw_pool(dice, is_fake=True).pool_id for _ in range(DRAWS)}
    drawn |= {reloads.draw_pool(dice).pool_id for _ in range(DRAWS)}
    assert drawn == {pool.pool_id for pool in POOLS} - {pool.pool_id for pool in spared}


def test_visitors_want_the_same_again_and_nothing_ill_of_a_spared_pool() -> None:
    first, second = ([invite(dice, n) for n in range(DRAWS)] for dice in (Random(5), Random(5)))
    assert [(one.prompt, one.habit) for one in first] == [(one.prompt, one.habit) for one in second]
    assert {one.pool.pool_id for one in first} == set(BY_ID)
    ill = [one for one in first if one.wish]
    assert ill and all(one.pool.is_fake and not one.pool.is_spared for one in ill)

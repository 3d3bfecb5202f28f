"""Looks at /health and the engines' journal all the while: bounds are kept, who is not ready says
why, and no task begins too often."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from soaking.book import Book, Invariant
from soaking.client import Client
from soaking.order import Beginnings
from soaking.pools import BY_ID
from tests.fakes.journal import JournalReader

EVERY_S = 0.25


async def watch(client: Client, book: Book, journal: JournalReader, beginnings: Beginnings) -> None:
    """For as long as it runs."""
    while True:
        await asyncio.sleep(EVERY_S)
        again = beginnings.note(journal.read_new())
        book.check(Invariant.ENDS_ONCE, not again, "; ".join(again))
        async with client.contain("GET /health"):
            health = await client.health()
            for invariant, faults in judge(health).items():
                book.check(invariant, not faults, "; ".join(faults))


def judge(health: Mapping[str, Any]) -> dict[Invariant, list[str]]:
    """What is wrong with it, by invariant."""
    pools = health["pools"]
    return {
        Invariant.ORDER: [text for pool in pools for text in _list_bounds_passed(pool)],
        Invariant.OWNED: [text for pool in pools for text in _list_slots_overdrawn(pool)],
        Invariant.COMES_BACK: [text for pool in pools for text in _list_unexplained(pool)],
    }


def _list_bounds_passed(pool: Mapping[str, Any]) -> Iterator[str]:
    plan = BY_ID[pool["pool_id"]]
    # What a replica had when it died is put back whether there is room or not.
    spare = 0 if plan.is_spared else plan.replicas * plan.slots
    for priority, bound in (("interactive", plan.interactive), ("batch", plan.batch)):
        if (waiting := pool["queue"][priority]) > bound + spare:
            yield f"{waiting} {priority} tasks wait at {plan.pool_id}, whose bound is {bound}"


def _list_slots_overdrawn(pool: Mapping[str, Any]) -> Iterator[str]:
    for replica in pool["replicas"]:
        if replica["slots_busy"] > replica["slots_total"] and replica["state"] == "ready":
            yield f"{replica['replica_id']} has {replica['slots_busy']} slots busy: {replica}"


def _list_unexplained(pool: Mapping[str, Any]) -> Iterator[str]:
    for replica in pool["replicas"]:
        if (replica["state"] == "ready") != (replica["reason"] is None):
            yield f"{replica['replica_id']} is {replica['state']}: {replica['reason']}"

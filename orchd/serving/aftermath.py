"""What becomes of a slot whose task the engine itself did not end: it comes free, or its replica is
to be started afresh."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from orchd.serving.dispatch import Grant
from orchd.serving.pool import Pool, Replica
from orchd.serving.slot_watch import FREE_WITHIN_S, does_answer, is_seen_free
from orchd.serving.task import Broken, Stalled


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the service waits for its engines."""

    settle_s: float = 0.5
    """How long a replica that broke a stream is granted nothing, so that the news of its death
    comes first: the socket's end and the process's end arrive in any order."""
    free_within_s: float = FREE_WITHIN_S
    """How long an engine may work on at a task that was cut short."""
    answer_s: float = 5.0
    """How long an engine that stalled may take for one answer."""


async def find_fault(pool: Pool, grant: Grant, replica: Replica, patience: Patience) -> str | None:
    """Wait until the engine has dropped the grant's task, or is gone.

    Returns what the replica is to be started afresh for, where it is.
    """
    closed = replica.closed
    match pool.core.why_doubted(grant):
        case Broken():
            await asyncio.wait([closed], timeout=patience.settle_s)
            if (fault := grant.slots.fault) is not None:
                return fault
        case Stalled(stall_s):
            if not await does_answer(pool.adapter, replica.endpoint, patience.answer_s):
                return f"has not answered since a task made no progress for {stall_s:g} s"
        case None:
            pass
        case never:
            assert_never(never)
    count = partial(pool.core.count_started, grant.slots)
    within_s, doubt_s = patience.free_within_s, pool.adapter.doubts_busy_after_s()
    if doubt_s is not None:
        await is_seen_free(pool.adapter, replica.endpoint, count, closed, min(within_s, doubt_s))
        return None
    if await is_seen_free(pool.adapter, replica.endpoint, count, closed, within_s):
        return None
    return f"worked on for {within_s:g} s at a task that was cut short"

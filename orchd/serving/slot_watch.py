"""Watches an engine until the slot of a task that was cut short is free again.

Closing its connection stops a task, but not at once: llama.cpp notices within a second and finishes
the batch of prompt that it is at (measured: up to 22 s on one core). Whoever were granted that slot
meanwhile would wait in the engine, unseen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.engines.adapter import Adapter, Endpoint, EngineRequest
from orchd.engines.client import exchange
from orchd.errors import EngineError

FREE_WITHIN_S = 60.0
"""How long an engine may work on for nobody before it counts as stuck."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
_ANSWER_TIMEOUT_S = 5.0


async def does_answer(
    adapter: Adapter, endpoint: Endpoint, within_s: float = _ANSWER_TIMEOUT_S
) -> bool:
    """True where the engine gives one answer, whatever it says.

    A connection proves nothing: the system accepts it for a process that is stopped.
    """
    request = adapter.slots_request() or adapter.health_request()
    try:
        async with asyncio.timeout(within_s):
            await exchange(endpoint, request)
    except (EngineError, TimeoutError):
        return False
    return True


async def is_seen_free(
    adapter: Adapter,
    endpoint: Endpoint,
    count_started: Callable[[], int],
    closed: asyncio.Future[None],
    within_s: float = FREE_WITHIN_S,
) -> bool:
    """True once the engine is at work on no more tasks than ``count_started`` says that it should.

    Also where the engine cannot tell, and once its replica is ``closed``. False where that does not
    come to be so in time.
    """
    request = adapter.slots_request()
    if request is None:
        return True
    pause_s = _FIRST_PAUSE_S
    try:
        async with asyncio.timeout(within_s):
            while not closed.done():
                # Before and after: a task that starts or ends while the engine is asked may or may
                # not be in its answer.
                before = count_started()
                busy = await _count_busy(adapter, endpoint, request)
                if busy is not None and busy <= min(before, count_started()):
                    break
                # Engines tell nobody when a slot comes free: asking again is the only way to know.
                await asyncio.wait([closed], timeout=pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    except TimeoutError:
        return False
    return True


async def _count_busy(adapter: Adapter, endpoint: Endpoint, request: EngineRequest) -> int | None:
    """How many slots are at work; None where the engine does not answer."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            answer = await exchange(endpoint, request)
            return adapter.read_busy_slots(answer.status, answer.body)
    except (EngineError, TimeoutError):
        return None

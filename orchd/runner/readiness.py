"""Waits until an engine has proven that it serves: it answers, it is ours, it makes a token.

A 200 from /health proves nothing of the decode loop, and another program may answer on a stolen
port; so a replica is ready when it has streamed one real token to our key and named our model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Adapter, Done, Endpoint, Generation, Identity, Refused
from orchd.engines.client import Answer, Receiver, exchange
from orchd.errors import EngineError

_PROBE_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 5.0
_FIRST_TOKEN = Generation(prompt="Hello", max_tokens=1, sampling={"temperature": 0})


async def prove_ready(
    adapter: Adapter,
    pool: PoolConfig,
    endpoint: Endpoint,
    model: str,
    last_output_s: Callable[[], float],
) -> Identity:
    """Return who answers, once it has made a token.

    Raises EngineError where it makes no progress (no output, no change of its health) for
    ``load_stall_s``, or answers as no engine of ours would.
    """
    await _wait_until_healthy(adapter, pool, endpoint, last_output_s)
    try:
        async with asyncio.timeout(pool.load_stall_s):
            answer = await exchange(endpoint, adapter.identity_request())
            if answer.status != 200:
                raise EngineError(f"answered HTTP {answer.status} when asked who it is")
            identity = adapter.read_identity(answer.body)
            if identity.model != model:
                raise EngineError(f"answers for another model, {identity.model}")
            await _make_token(adapter, pool, endpoint)
    except TimeoutError as error:
        raise EngineError(f"loaded, but made no token in {pool.load_stall_s:g} s") from error
    return identity


async def _wait_until_healthy(
    adapter: Adapter, pool: PoolConfig, endpoint: Endpoint, last_output_s: Callable[[], float]
) -> None:
    loop = asyncio.get_running_loop()
    health, changed_s = "", loop.time()
    while True:
        answer = await _probe(adapter, endpoint)
        if isinstance(answer, Answer) and answer.status == 200:
            return
        now_s = loop.time()
        if str(answer) != health:
            health, changed_s = str(answer), now_s
        if now_s - max(changed_s, last_output_s()) > pool.load_stall_s:
            raise EngineError(f"made no progress at loading for {pool.load_stall_s:g} s")
        # Engines tell nobody when they have loaded: asking again is the only way to know.
        await asyncio.sleep(_PROBE_INTERVAL_S)


async def _probe(adapter: Adapter, endpoint: Endpoint) -> Answer | str:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            return await exchange(endpoint, adapter.health_request())
    except (EngineError, TimeoutError) as error:
        return str(error)


async def _make_token(adapter: Adapter, pool: PoolConfig, endpoint: Endpoint) -> None:
    parser = adapter.new_parser(_FIRST_TOKEN)
    last: list[Done | Refused] = []

    def on_body(chunk: bytes) -> None:
        last.extend(event for event in parser.feed(chunk) if isinstance(event, Done | Refused))

    request = adapter.generation_request(pool, _FIRST_TOKEN)
    answer = await exchange(endpoint, request, Receiver(lambda: None, on_body))
    if answer.status != 200:
        last.append(adapter.read_refusal(answer.status, answer.body))
    match last:
        case [Done(), *_]:
            return
        case [Refused(message), *_]:
            raise EngineError(f"refused to make a first token: {message}")
        case _:
            raise EngineError("ended its first stream without a last word")

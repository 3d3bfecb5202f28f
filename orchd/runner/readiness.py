"""Waits until an engine has proven that it serves: it answers, it is ours, it makes a token.

A 200 from /health proves nothing of the decode loop, and another program may answer on a stolen
port. So the kernel must not know of a stranger on the port, the answerer must refuse a key that is
not ours (before it has seen the one that is), name our model, and stream one real token.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Container, Iterable
from dataclasses import dataclass, replace
from itertools import islice

from orchd.config.model import PoolConfig
from orchd.engines.adapter import (
    Adapter,
    Done,
    Endpoint,
    Generation,
    Identity,
    Refused,
    StreamEvent,
)
from orchd.engines.client import Answer, Receiver, exchange
from orchd.errors import EngineError
from orchd.runner.load_progress import LoadProgress, Signs

_PROBE_INTERVAL_S = 0.1
_PROBE_TIMEOUT_S = 5.0
_NAME_CHARS = 1000
"""How much of a strange model's name is told: it may be as long as an answer."""
_NO_SUCH_ENDPOINT = (404, 405, 501)
_NOT_YET = 503
_REFUSING = ("401", "403")
SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that is to prove itself, and what can be seen of it besides its answers."""

    adapter: Adapter
    pool: PoolConfig
    endpoint: Endpoint
    read_signs: Callable[[str], Signs]
    """Its signs of progress now; it is told how the engine answers."""
    is_strange: Callable[[], Awaitable[bool]]
    """True where somebody else is known to listen on its port."""


async def prove_ready(candidate: Candidate) -> Identity:
    """Return who answers, once it has made a token.

    Raises EngineError where it makes no progress for ``load_stall_s``, or answers as no engine of
    ours would.
    """
    await _wait_until_healthy(candidate)
    endpoint, patience_s = candidate.endpoint, candidate.pool.load_stall_s
    if await candidate.is_strange():
        raise EngineError(f"does not listen on its port {endpoint.port}: another program does")
    try:
        async with asyncio.timeout(patience_s):
            if candidate.adapter.has_key(candidate.pool):
                await _make_sure_of_the_key(candidate)
            identity = await _identify(candidate)
            await _make_token(candidate)
    except TimeoutError as error:
        raise EngineError(f"loaded, but made no token in {patience_s:g} s") from error
    return (
        identity if identity.version else replace(identity, version=await _ask_version(candidate))
    )


async def _wait_until_healthy(candidate: Candidate) -> None:
    loop = asyncio.get_running_loop()
    progress, stall_s = LoadProgress(loop.time()), candidate.pool.load_stall_s
    while (health := await _probe(candidate)).status != "200":
        if health.status in _REFUSING:
            # Of a health that needs the key; waiting would not make it take ours.
            problem = f"does not take its key (HTTP {health.status}), or is another's server"
            raise EngineError(problem)
        progress.see(candidate.read_signs(health.status), loop.time())
        if progress.has_stalled(loop.time(), stall_s):
            raise EngineError(f"made no progress at loading for {stall_s:g} s, and {health.told}")
        # Engines tell nobody when they have loaded: asking again is the only way to know.
        await asyncio.sleep(_PROBE_INTERVAL_S)


@dataclass(frozen=True, slots=True)
class _Health:
    """What came of one question after it."""

    status: str
    """HTTP's; ``SILENT`` where it answers none."""
    told: str


async def _probe(candidate: Candidate) -> _Health:
    port = candidate.endpoint.port
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            answer = await exchange(candidate.endpoint, candidate.adapter.health_request())
            return _Health(str(answer.status), f"answers HTTP {answer.status}")
    except EngineError as error:
        return _Health(SILENT, f"on its port {port} {error}")
    except TimeoutError:
        return _Health(SILENT, f"on its port {port} does not answer within {_PROBE_TIMEOUT_S:g} s")


async def _make_sure_of_the_key(candidate: Candidate) -> None:
    """Whoever takes any key serves every user of this machine, past the daemon's token."""
    stranger = replace(candidate.endpoint, key=secrets.token_urlsafe(32))
    answer = await exchange(stranger, candidate.adapter.identity_request())
    if answer.status not in (401, 403):
        raise EngineError(f"answered HTTP {answer.status} to a key that is not its own")


async def _identify(candidate: Candidate) -> Identity:
    answer: Answer = await exchange(candidate.endpoint, candidate.adapter.identity_request())
    if answer.status != 200:
        raise EngineError(f"answered HTTP {answer.status} when asked who it is")
    identity = candidate.adapter.read_identity(candidate.pool, answer.body)
    if identity.model != candidate.pool.model:
        raise EngineError(f"answers for another model, {identity.model[:_NAME_CHARS]}")
    return identity


async def _ask_version(candidate: Candidate) -> str | None:
    """An engine that will not say its version serves all the same."""
    for request in candidate.adapter.version_requests():
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                answer = await exchange(candidate.endpoint, request)
        except (EngineError, TimeoutError):
            continue
        if answer.status == 200 and (version := candidate.adapter.read_version(answer.body)):
            return version
    return None


async def _make_token(candidate: Candidate) -> None:
    """Have it make one in the first way that it knows."""
    *ways, last_way = candidate.adapter.first_generations()
    for way in ways:
        if await _does_generate(candidate, way, passes_over=_NO_SUCH_ENDPOINT):
            return
    await _does_generate(candidate, last_way)


async def _does_generate(
    candidate: Candidate, way: Generation, passes_over: Container[int] = ()
) -> bool:
    """True once it has; False where it answers one of these. Raises EngineError where it fails."""
    adapter, pool = candidate.adapter, candidate.pool
    parser = adapter.new_parser(way)
    last: list[Done | Refused] = []

    def hear(events: Iterable[StreamEvent]) -> bool:
        """Up to its last word, as a task's stream is heard."""
        last.extend(islice((said for said in events if isinstance(said, Done | Refused)), 1))
        return bool(last)

    request = adapter.generation_request(pool, way)
    receiver = Receiver(lambda: None, lambda chunk: hear(parser.feed(chunk)))
    while True:
        answer = await exchange(candidate.endpoint, request, receiver)
        if answer.status != _NOT_YET:
            break
        # Some list a model that they have not loaded yet, and say so to whoever asks it.
        await asyncio.sleep(_PROBE_INTERVAL_S)
    if answer.status in passes_over:
        return False
    if answer.status != 200:
        last.append(adapter.read_refusal(answer.status, answer.body))
    elif not last:
        hear(parser.end())
    match last:
        case [Done(), *_]:
            return True
        case [Refused(message), *_]:
            raise EngineError(f"refused to make a first token: {message}")
        case _:
            raise EngineError("ended its first stream without a last word")

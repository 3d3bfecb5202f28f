"""Nothing survives its connection: thousands come and go in every way, and the house is as before.

The server, the connection and the door are the real ones. What is counted is every object of ours,
of h11 and of uvloop that the garbage collector knows, so a timer, a handle or a buffer that is left
somewhere shows, whoever holds it.
"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

from orchd.api.door import Door
from orchd.config.listen import Listen
from orchd.http1.limits import Limits
from orchd.reload_outcome import Reloaded, ReloadOutcome, Strategy
from orchd.serving.entry import Entry
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.task import Admitted, Ended, Rejected, Started, Token
from tests.conftest import Drive
from tests.fakes.engines import count_descriptors
from tests.fakes.house import FakeReplica, FakeService, build_context
from tests.http1.raw import serving
from tests.http1.ways import TOKEN, WAYS, visit

BATCHES = (6_000, 2_000, 2_000)
"""Connections; the first fills what is filled once, and memory is traced from then on: that is
slow."""
AT_ONCE = 64
NEVER_S = 1000.0
GROWTH_BYTES = 64 * 1024
"""From the second batch to the third: 32 for each connection, less than any object takes. A third
of it is the noise of the loop, and the census itself."""


class _ForgetfulService(FakeService):
    """Keeps nothing of what it was asked."""

    def submit(self, request: TaskRequest) -> Admitted | Rejected:
        outcome = super().submit(request)
        self.submitted.clear()
        return outcome


class _Reloads:
    """Another model is there in the next loop turn; the same one afresh never is."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._endless: asyncio.Future[ReloadOutcome] = self._loop.create_future()

    def __call__(self, pool_id: str, new_model_ref: str | None) -> asyncio.Future[ReloadOutcome]:
        if new_model_ref is None:
            return self._endless
        future: asyncio.Future[ReloadOutcome] = self._loop.create_future()
        reloaded = Reloaded(pool_id, new_model_ref, "/b", Strategy.IN_PLACE, 1)
        self._loop.call_soon(future.set_result, reloaded)
        return future

    @property
    def callbacks(self) -> int:
        """How many still wait for what never comes."""
        return len(cast(Any, self._endless)._callbacks or ())


@dataclass(frozen=True, slots=True)
class Census:
    """What there is at a moment at which nobody is connected."""

    objects: Counter[str]
    tasks: int
    descriptors: int
    traced_bytes: int
    """What was allocated since tracing began, and is still there."""

    @classmethod
    def take(cls) -> Census:
        gc.collect()
        traced_bytes, _ = tracemalloc.get_traced_memory()
        kinds = (type(thing) for thing in gc.get_objects())
        names = (f"{kind.__module__}.{kind.__qualname__}" for kind in kinds)
        ours = Counter(name for name in names if name.startswith(("orchd.", "h11.", "uvloop.")))
        return cls(ours, len(asyncio.all_tasks()), count_descriptors(), traced_bytes)


async def come_and_go(listen: Listen, count: int) -> None:
    """So many connections, some at once, each way as often as every other one."""
    turns = iter(range(count))

    async def keep_coming() -> None:
        for turn in turns:
            await visit(listen, WAYS[turn % len(WAYS)])

    async with asyncio.TaskGroup() as clients:
        for _ in range(AT_ONCE):
            clients.create_task(keep_coming())


def furnish(service: FakeService) -> list[Entry]:
    """One task that is over, one whose log no socket takes whole, one that never ends."""
    started, end = Started(0, 0), Ended(1, 1, 1, "stop")
    long = (Token("x" * 60_000, n) for n in range(200))
    return [
        service.add("ended", started, Token("a", 0), end),
        service.add("long", started, *long, end),
        service.add("endless", started, Token("a", 0)),
    ]


def test_nothing_survives_its_connection(drive: Drive[Any]) -> None:
    faults: list[Any] = []

    async def scenario() -> list[Census]:
        asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
        service = _ForgetfulService()
        entries = furnish(service)
        reloads = _Reloads()
        door = Door(build_context(service, FakeReplica(), reload=reloads), TOKEN)
        # Whoever closed one half earlier and goes without a word is found out by pings alone. A
        # timer that is forgotten is still there when it is looked for.
        async with serving(door, Limits(ping_s=0.1, linger_s=NEVER_S)) as (server, listen):
            seen = []
            for count in (0, *BATCHES):
                await come_and_go(listen, count)
                while server.connections:  # noqa: ASYNC110, the server tells nobody of it
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.01)  # libuv closes its handles some turns later
                assert not any(entry.has_readers for entry in entries)
                assert not reloads.callbacks
                seen.append(Census.take())
                if count:
                    tracemalloc.start()
        return seen

    try:
        before, _, second, third = drive(scenario())
    finally:
        tracemalloc.stop()
    assert not faults
    assert third.tasks == before.tasks == 1
    assert third.descriptors == before.descriptors
    assert third.objects - before.objects == Counter()
    assert third.traced_bytes - second.traced_bytes < GROWTH_BYTES

"""A whole soak: spells of load and faults, a rest behind each, and a stop under load at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from random import Random

from daemon_child import Interrupted, raise_on_signals

from soaking import mishaps, processes
from soaking.book import Book, Invariant
from soaking.client import Client
from soaking.growth import LEAST_READINGS, has_grown
from soaking.mishaps import Mishap
from soaking.pools import POOLS
from soaking.pulse import Pulse
from soaking.rest import Inspector, Reading
from soaking.scene import Scene
from soaking.tasks import Task, list_faults
from soaking.visitors import VISITORS, Crowd
from soaking.watch import watch
from soaking.world import STOP_GRACE_S, Stand
from tests.fakes.journal import JournalReader
from tests.http1.raw_cases import TOKEN

READY_S = 120.0
SPELL_MAX_S = 90.0
SPELLS_LEAST = 2
STOP_S = STOP_GRACE_S + 25.0
"""An engine may take 10 s from SIGTERM to SIGKILL, and one may be loading."""
RSS_SLACK_MIB = 8.0
"""A heap that was once full of long events keeps some of its pages: between rests it was seen to go
from 63 MiB to 49 and to 63 again."""
LAST_TASKS = 3
"""At each pool, when the daemon is stopped."""


@dataclass(slots=True)
class Soak:
    """One soak of a daemon that has been started; ``run`` fills the book."""

    stand: Stand
    seed: int
    seconds: float
    book: Book = field(default_factory=Book)
    readings: list[Reading] = field(default_factory=list)

    async def run(self) -> None:
        """Raises Interrupted where a signal comes."""
        with _cancelled_by_signals():
            await self._run()

    async def _run(self) -> None:
        client = Client(self.stand.port, self.book)
        scene = Scene(self.stand, client, self.book, JournalReader(self.stand.world.journal))
        crowd = Crowd(client, self.stand.world, self.book, self.seed)
        try:
            if not await self._wait_until_ready(client):
                return
            scene.expect_models_of_the_configuration()
            beats = self.stand.world.folder / "pulse"
            with Pulse(self.stand.port, TOKEN, self.stand.pid, beats) as pulse:
                inspector = Inspector(scene, crowd, pulse, self.readings)
                async with self._company(scene, crowd):
                    await self._go_through(scene, crowd, inspector)
            if not self.book.is_broken.is_set():
                await self._stop_under_load(client)
        finally:
            await client.close()

    async def _wait_until_ready(self, client: Client) -> bool:
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            with contextlib.suppress(OSError, Exception):
                health = await client.health()
                states = [r["state"] for pool in health["pools"] for r in pool["replicas"]]
                if set(states) == {"ready"}:
                    return True
            await asyncio.sleep(0.1)
        self.book.breach(Invariant.COMES_BACK, "the daemon did not become ready")
        return False

    @contextlib.asynccontextmanager
    async def _company(self, scene: Scene, crowd: Crowd) -> AsyncIterator[None]:
        """The visitors and the watch, who come and look until the end."""
        own = Client(self.stand.port, self.book)
        company = [asyncio.create_task(crowd.come(place)) for place in range(VISITORS)]
        looking = watch(own, self.book, scene.journal, scene.beginnings)
        company.append(asyncio.create_task(looking))
        try:
            yield
        finally:
            for one in company:
                one.cancel()
            for end in await asyncio.gather(*company, return_exceptions=True):
                if isinstance(end, Exception):
                    raise end
            await own.close()

    async def _go_through(self, scene: Scene, crowd: Crowd, inspector: Inspector) -> None:
        # What an idle daemon has open is what it may have open.
        await self._rest(scene, inspector, is_last=True)
        plan = mishaps.plan(self.seed)
        spells = max(SPELLS_LEAST, round(self.seconds / SPELL_MAX_S))
        for left in reversed(range(spells)):
            if self.book.is_broken.is_set():
                return
            self.book.step("a spell of faults")
            crowd.is_open.set()
            await self._throw(scene, plan, self.seconds / spells)
            crowd.is_open.clear()
            self.book.step("a rest")
            if self.book.is_broken.is_set():
                return
            await self._rest(scene, inspector, is_last=not left)
        self._judge_growth()

    async def _rest(self, scene: Scene, inspector: Inspector, is_last: bool) -> None:
        async with scene.client.contain("a rest"):
            await inspector.inspect(is_last)

    async def _throw(
        self, scene: Scene, plan: Iterator[tuple[float, Mishap, Random]], span_s: float
    ) -> None:
        """Until the time is over, or a breach was found; each mishap is carried to its end."""
        thrown: set[asyncio.Task[None]] = set()
        until_s = time.monotonic() + span_s
        for pause_s, mishap, dice in plan:
            with contextlib.suppress(TimeoutError):
                left_s = until_s - time.monotonic()
                await asyncio.wait_for(self.book.is_broken.wait(), min(pause_s, max(left_s, 0)))
            if self.book.is_broken.is_set() or time.monotonic() >= until_s:
                break
            thrown.add(asyncio.create_task(_carry(mishap, scene, dice)))
        await asyncio.gather(*thrown)

    def _judge_growth(self) -> None:
        if len(self.readings) < LEAST_READINGS:
            return
        for name, slack, invariant in (
            ("rss_mib", RSS_SLACK_MIB, Invariant.OWNED),
            ("files", 0.0, Invariant.OWNED),
            ("threads", 0.0, Invariant.OWNED),
            ("processes", 0.0, Invariant.OWNED),
            ("latency_ms", 1.0, Invariant.LOOP),
        ):
            values = [getattr(reading, name) for reading in self.readings]
            self.book.check(invariant, not has_grown(values, slack), f"{name} grows: {values}")

    # -- the end -------------------------------------------------------------------------------

    async def _stop_under_load(self, client: Client) -> None:
        """SIGTERM while every pool has tasks: each of them ends, and nothing is left."""
        tasks = [
            Task(-1000 - n, pool, "interactive", tokens, "reads", 0.05)
            for pool in POOLS
            for n, tokens in zip(range(LAST_TASKS), (2, 20, 200), strict=True)
        ]
        readers = [asyncio.create_task(_follow(client, task)) for task in tasks]
        await asyncio.sleep(1)
        os.kill(self.stand.pid, signal.SIGTERM)
        self.book.step("SIGTERM to the daemon")
        for task, end in zip(
            tasks, await asyncio.gather(*readers, return_exceptions=True), strict=True
        ):
            if isinstance(end, BaseException):
                faults = [repr(end)]
            elif task.admitted_s is None:
                # On a machine that is slow it may have come when the daemon was stopping.
                continue
            else:
                faults = list(list_faults(task, self.stand.world.models[task.pool.pool_id]))
            about = f"task {task.marker} on {task.pool.pool_id} at the stop"
            self.book.check(Invariant.ENDS_ONCE, not faults, f"{about}: {'; '.join(faults)}")
            if not faults:
                self.book.tasks[task.outcome] += 1
        exited = await asyncio.to_thread(self.stand.child.has_exited_within, STOP_S)
        status = _read_exit_status(self.stand.pid) if exited else None
        self.book.check(Invariant.SPEAKS, status == 0, f"exited {exited}, with status {status}")
        left = processes.list_marked(self.stand.world.folder)
        self.book.check(Invariant.OWNED, not left, f"processes that outlived the daemon: {left}")


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """What would end this process ends what runs here, in order."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    heard: list[int] = []

    def end(number: int) -> None:
        heard.append(number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        yield
    except asyncio.CancelledError:
        if not heard:
            raise
        raise Interrupted(heard[0]) from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        raise_on_signals()


def _read_exit_status(pid: int) -> int | None:
    """Of a child that has exited, left for others to reap."""
    told = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return None if told is None else told.si_status


async def _carry(mishap: Mishap, scene: Scene, dice: Random) -> None:
    """To its end; where the daemon cannot be asked for who is to be hit, that is a breach."""
    async with scene.client.contain("a look for an engine"):
        await mishap.befall(scene, dice)


async def _follow(client: Client, task: Task) -> None:
    task.posted_s = time.monotonic()
    body = {"pool_id": task.pool.pool_id, "prompt": task.prompt, "max_tokens": task.tokens}
    answer = await client.ask("POST", "/v1/tasks", body)
    if answer.status_code == 202:
        task.admitted_s, task.task_id = time.monotonic(), answer.json()["task_id"]
        task.story = await client.read(task.task_id)

"""The crowd: clients that submit tasks, with habits good and bad, and see what becomes of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from soaking.book import Book, Invariant
from soaking.client import Client
from soaking.pools import BY_ID, POOLS, Pool
from soaking.tasks import Task, list_faults, list_place_faults
from soaking.world import ABANDON_AFTER_S, World

VISITORS = 32
PAUSE_MEAN_S = 0.4
SLOW_S = 1.0
"""An admission that takes longer is noted among the steps: its task may be given up for it."""
PARTY_MAX = 6
"""Tasks more that one client brings along where the order is looked at."""
HABITS = {
    "reads": 8,
    "reads twice": 2,
    "comes back": 2,
    "hangs up": 2,
    "never reads": 1,
    "cancels at once": 1,
    "cancels in mid-stream": 2,
}
"""With their shares."""
WISHES = {
    "": 2500,
    "[refuse]": 15,
    "[status 500]": 6,
    "[status 503]": 6,
    "[garbage text]": 4,
    "[garbage binary]": 4,
    "[garbage head]": 4,
    "[garbage nothing]": 4,
    **{f"[spoil {kind}] [after 2]": 2 for kind in ("words", "cut", "number", "unicode", "huge")},
    **{f"[spoil {kind}] [after 1]": 2 for kind in ("end", "close", "size", "error", "large")},
    **{f"[spoil {kind}] [after 3]": 1 for kind in ("chunk", "event", "endless", "deep")},
    "[crash 0]": 2,
    "[crash 2]": 2,
    "[exit 1]": 1,
    "[hang 0]": 1,
    "[hang 2]": 1,
    "[deaf 1]": 1,
    "[flood 30]": 5,
}
"""What a prompt asks a fake engine to do wrong, with its share."""


def draw(dice: random.Random, shares: dict[str, int]) -> str:
    return dice.choices(list(shares), list(shares.values()))[0]


def invite(dice: random.Random, number: int, pool: Pool | None = None) -> Task:
    """A task as its client wants it, on some pool where none is named."""
    pool = pool or dice.choices(POOLS, [pool.share for pool in POOLS])[0]
    task = Task(
        number,
        pool,
        dice.choice(("interactive", "interactive", "batch")),
        dice.choice((1, 3, 8, 20)) if pool.kind != "real" else 4,
        draw(dice, HABITS),
        dice.choice((0, 0, 0.005, 0.03)),
    )
    wish = draw(dice, WISHES)
    if pool.is_fake and not pool.is_spared and wish:
        task.wish = wish
    return task


@dataclass(slots=True)
class Crowd:
    """All of them. ``tasks`` holds those since the last rest, by their markers."""

    client: Client
    world: World
    book: Book
    seed: int
    tasks: dict[str, Task] = field(default_factory=dict)
    admitted: dict[str, int] = field(default_factory=lambda: {pool.pool_id: 0 for pool in POOLS})
    """Since the start, by pool."""
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: int = 0
    _idle: asyncio.Condition = field(default_factory=asyncio.Condition)
    _invited: int = 0

    async def come(self, place: int) -> None:
        """One client after another, for as long as this runs."""
        dice = random.Random(f"{self.seed} visitor {place}")
        while True:
            await asyncio.sleep(dice.expovariate(1 / PAUSE_MEAN_S))
            await self.is_open.wait()
            party = [self._invite(dice)]
            if party[0].pool is BY_ID["ordered"]:
                # Alone there, hardly anybody would wait behind anybody.
                more = (self._invite(dice, party[0].pool) for _ in range(dice.randrange(PARTY_MAX)))
                party += more
            await self.receive(*party)

    def _invite(self, dice: random.Random, pool: Pool | None = None) -> Task:
        self._invited += 1
        return invite(dice, self._invited, pool)

    async def wait_until_gone(self) -> None:
        """Nobody is under way; new ones come only where the door is open."""
        async with self._idle:
            await self._idle.wait_for(lambda: not self.under_way)

    async def receive(self, *party: Task) -> None:
        """One visit, from its requests, one after another, to the last look at their stories."""
        self.under_way += 1
        try:
            # Each is followed from its 202 on: until the last of a party is in, on a slow machine,
            # the first may have been given up.
            async with asyncio.TaskGroup() as following:
                for task in party:
                    self.tasks[task.marker] = task
                    async with self.client.contain(f"submission of {task.marker}"):
                        if await self._submit(task):
                            following.create_task(self._follow(task))
        finally:
            self.under_way -= 1
            async with self._idle:
                self._idle.notify_all()

    async def _follow(self, task: Task) -> None:
        async with self.client.contain(f"task {task.marker} on {task.pool.pool_id}"):
            await _HABITS[task.habit](self.client, task)
            task.story = await self.client.read(task.task_id)
            await self._judge(task)

    async def _submit(self, task: Task) -> bool:
        """Whether it was admitted."""
        body = {
            "pool_id": task.pool.pool_id,
            "prompt": task.prompt,
            "priority": task.priority,
            "max_tokens": task.tokens,
        }
        if task.number % 3 == 0:
            body["messages"] = [{"role": "user", "content": body.pop("prompt")}]
        task.posted_s = time.monotonic()
        answer = await self.client.ask("POST", "/v1/tasks", body)
        told, answered_s = answer.json(), time.monotonic()
        if (took_s := answered_s - task.posted_s) > SLOW_S:
            self.book.step(f"task {task.marker} was answered only after {took_s:.1f} s")
        if answer.status_code == 202:
            task.admitted_s, task.task_id = answered_s, told["task_id"]
            self.admitted[task.pool.pool_id] += 1
            faults = list_place_faults(task, told["queue_position"])
            self.book.check(Invariant.ORDER, not faults, "; ".join(faults))
            if task.wish:
                self.book.fault(f"engine does {task.wish.strip('[').split(']')[0]}", task.marker)
            return True
        self.book.refused[f"{answer.status_code} {told['code']}"] += 1
        allowed = (429,) if task.pool.is_spared else (429, 503)
        self.book.check(
            Invariant.SPARED if task.pool.is_spared else Invariant.SPEAKS,
            answer.status_code in allowed,
            f"task {task.marker} on {task.pool.pool_id} got {answer.status_code}: {told}",
        )
        return False

    async def _judge(self, task: Task) -> None:
        about = f"task {task.marker} ({task.habit}) on {task.pool.pool_id}, {task.task_id}"
        models = self.world.models[task.pool.pool_id]
        faults = list(list_faults(task, models))
        if not faults and task.number % 8 == 0:
            # From anywhere in it, its log goes on as it was.
            at = task.number % len(task.story)
            again = await self.client.read(task.task_id, after=task.story[at].id)
            if again != task.story[at + 1 :]:
                faults.append(f"read again from {at}: {again}")
        self.book.check(Invariant.ENDS_ONCE, not faults, f"{about}: {'; '.join(faults)}")
        if faults:
            return
        self.book.tasks[task.outcome] += 1
        if task.pool.is_spared:
            is_kept = task.outcome in ("end", "CANCELLED")
            self.book.check(Invariant.SPARED, is_kept, f"{about}: {task.last}")


# -- habits --------------------------------------------------------------------------------------


async def _read(client: Client, task: Task) -> None:
    task.looks.append(await client.read(task.task_id))


async def _read_twice(client: Client, task: Task) -> None:
    task.looks += await asyncio.gather(*[client.read(task.task_id) for _ in range(2)])


async def _come_back(client: Client, task: Task) -> None:
    seen = await client.read(task.task_id, until=2)
    task.looks.append(seen + await client.read(task.task_id, after=seen[-1].id))


async def _hang_up(client: Client, task: Task) -> None:
    task.looks.append(await client.read(task.task_id, until=1))


async def _never_read(client: Client, task: Task) -> None:
    await asyncio.sleep(ABANDON_AFTER_S + 1)


async def _cancel(client: Client, task: Task) -> None:
    task.has_cancelled = True
    await client.ask("POST", f"/v1/tasks/{task.task_id}/cancel")
    task.looks.append(await client.read(task.task_id))


async def _cancel_in_mid_stream(client: Client, task: Task) -> None:
    task.looks.append(await client.read(task.task_id, until=2))
    await _cancel(client, task)


_HABITS: dict[str, Callable[[Client, Task], Awaitable[None]]] = {
    "reads": _read,
    "reads twice": _read_twice,
    "comes back": _come_back,
    "hangs up": _hang_up,
    "never reads": _never_read,
    "cancels at once": _cancel,
    "cancels in mid-stream": _cancel_in_mid_stream,
}

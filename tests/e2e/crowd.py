"""A crowd of clients with habits good and bad, and what each of them saw."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
from httpx_sse import aconnect_sse

from tests.contracts.seen import is_comment
from tests.contracts.witness import WITNESS

HABITS = (
    "reads",
    "reads twice",
    "comes back",
    "hangs up",
    "never reads",
    "cancels at once",
    "cancels in mid-stream",
)
FAITHFUL = HABITS[:3]
"""Their tasks are served to the end."""


class Seen(NamedTuple):
    """An event as a reader saw it."""

    id: str
    event: str
    data: str


@dataclass(slots=True)
class Visitor:
    """One client with one task."""

    number: int
    priority: str
    habit: str
    max_tokens: int
    task_id: str = ""
    """Empty when it was refused."""
    seen: list[Seen] = field(default_factory=list)
    """What it saw while it happened, where that is the whole of it."""
    story: list[Seen] = field(default_factory=list)
    """What can be read of it afterwards."""

    @property
    def path(self) -> str:
        return f"/v1/tasks/{self.task_id}"

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.story]

    @property
    def last(self) -> dict[str, Any]:
        return dict(json.loads(self.story[-1].data))

    def check_story(self) -> None:
        """One start, tokens without a gap, one end; or an error alone; the same for all."""
        assert self.seen in ([], self.story)
        tokens = self.names.count("token")
        if self.names != ["error"]:
            assert self.names[:-1] == ["started", *["token"] * tokens], self.names
        assert self.names[-1] in ("end", "error")
        assert [event.id for event in self.story] == [str(n) for n in range(len(self.story))]
        indexes = [json.loads(e.data)["i"] for e in self.story if e.event == "token"]
        assert indexes == list(range(tokens))
        if self.names[-1] == "end":
            assert 0 < self.last["tokens_out"] <= self.max_tokens
        else:
            assert self.last["code"] == "CANCELLED", self.last


def invite(seed: int, count: int) -> list[Visitor]:
    """Visitors drawn from a seed."""
    dice = random.Random(seed)
    return [
        Visitor(
            number,
            dice.choice(("interactive", "batch")),
            dice.choice(HABITS),
            dice.randint(1, 4),
        )
        for number in range(count)
    ]


async def _nothing() -> None: ...


async def meet(
    client: httpx.AsyncClient,
    visitors: list[Visitor],
    describe: Callable[[Visitor], dict[str, Any]],
    when_some_have_cancelled: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """Let them all come, one after another, and stay together; then fetch each one's story."""
    for visitor in visitors:
        task = {"priority": visitor.priority, "max_tokens": visitor.max_tokens}
        answer = await client.post("/v1/tasks", json=task | describe(visitor))
        if answer.status_code == 429:
            assert answer.json()["code"] == "ADMISSION_REJECT"
            assert int(answer.headers["Retry-After"]) >= 1
            assert int(answer.headers["X-Backoff-Ms"]) >= 1
            continue
        assert answer.status_code == 202, answer.text
        visitor.task_id = answer.json()["task_id"]
    admitted = [visitor for visitor in visitors if visitor.task_id]
    hasty = [visitor for visitor in admitted if visitor.habit == "cancels at once"]
    await asyncio.gather(*[_cancel(client, visitor) for visitor in hasty])
    await when_some_have_cancelled()
    await asyncio.gather(*[_visit(client, visitor) for visitor in admitted])
    for visitor in admitted:
        visitor.story = await _read(client, visitor)
        visitor.check_story()


async def _visit(client: httpx.AsyncClient, visitor: Visitor) -> None:
    match visitor.habit:
        case "reads":
            visitor.seen = await _read(client, visitor)
        case "reads twice":
            visitor.seen, again = await asyncio.gather(*[_read(client, visitor) for _ in range(2)])
            assert again == visitor.seen
        case "comes back":
            seen = await _read(client, visitor, until=2)
            visitor.seen = seen + await _read(client, visitor, after=seen[-1].id)
        case "hangs up":
            await _read(client, visitor, until=1)
        case "cancels in mid-stream":
            await _read(client, visitor, until=2)
            await _cancel(client, visitor)
            visitor.seen = await _read(client, visitor)


async def _cancel(client: httpx.AsyncClient, visitor: Visitor) -> None:
    assert (await client.post(f"{visitor.path}/cancel")).status_code == 204


async def _read(
    client: httpx.AsyncClient, visitor: Visitor, until: int | None = None, after: str | None = None
) -> list[Seen]:
    """The events of the stream, the first few where ``until`` says so."""
    headers = {} if after is None else {"Last-Event-ID": after}
    seen: list[Seen] = []
    async with aconnect_sse(client, "GET", f"{visitor.path}/stream", headers=headers) as source:
        async for event in source.aiter_sse():
            if is_comment(event):
                continue
            WITNESS.hold_event(event.event, event.data)
            seen.append(Seen(event.id, event.event, event.data))
            if len(seen) == until:
                break
    return seen

"""Asks the daemon under soak; each answer is held to the contracts as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from httpx_sse import aconnect_sse
from jsonschema import ValidationError

from soaking.book import Book, Invariant
from soaking.tasks import Seen
from tests.contracts.documents import validator
from tests.contracts.seen import is_comment, see_httpx_async
from tests.contracts.witness import WITNESS, UndocumentedError
from tests.http1.raw_cases import TOKEN

TIMEOUT_S = 60.0
"""Longer than the daemon leaves a stream without a word, or a fault of the load lasts."""
RELOAD_TIMEOUT_S = 120.0

Patience = float | httpx.Timeout


class Client:
    """The daemon, as a well-behaved client of its meets it."""

    def __init__(self, port: int, book: Book) -> None:
        self.port = port
        self._book = book
        self._http = _connect(port)

    async def close(self) -> None:
        await self._http.aclose()

    async def let_go(self) -> None:
        """Leave no connection open. Nothing may be under way."""
        await self._http.aclose()
        self._http = _connect(self.port)

    async def ask(
        self, method: str, path: str, body: object = None, patience: Patience = TIMEOUT_S
    ) -> httpx.Response:
        """One answer, whole."""
        return await self._http.request(method, path, json=body, timeout=patience)

    async def health(self) -> dict[str, Any]:
        answer = dict((await self.ask("GET", "/health")).json())
        validator("control.yaml", "Health").validate(answer)
        return answer

    async def pool(self, pool_id: str) -> dict[str, Any]:
        return next(dict(p) for p in (await self.health())["pools"] if p["pool_id"] == pool_id)

    async def read(
        self, task_id: str, until: int | None = None, after: str | None = None
    ) -> list[Seen]:
        """The events of a task to its end; the first few where ``until`` says so."""
        headers = {} if after is None else {"Last-Event-ID": after}
        path = f"/v1/tasks/{task_id}/stream"
        seen: list[Seen] = []
        async with aconnect_sse(self._http, "GET", path, headers=headers) as source:
            async for event in source.aiter_sse():
                if is_comment(event):
                    continue
                WITNESS.hold_event(event.event, event.data)
                seen.append(Seen(event.id, event.event, event.data))
                if len(seen) == until:
                    break
        return seen

    @asynccontextmanager
    async def contain(self, about: str) -> AsyncIterator[None]:
        """Whatever goes wrong between the daemon and this client is a breach."""
        try:
            yield
        except (UndocumentedError, ValidationError) as error:
            self._book.breach(Invariant.SPEAKS, f"{about}: {error}")
        except (httpx.HTTPError, asyncio.IncompleteReadError, OSError) as error:
            self._book.breach(Invariant.SPEAKS, f"{about}: {type(error).__name__} {error}")


def _connect(port: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        headers={"Authorization": f"Bearer {TOKEN}"},
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=16),
        timeout=TIMEOUT_S,
        trust_env=False,
        event_hooks={"response": [see_httpx_async]},
    )

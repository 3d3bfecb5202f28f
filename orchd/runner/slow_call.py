"""A call that may block for long, or for ever, beside the event loop.

The loop's own threads will not do: a driver or a disk that never answers would use them up, and
the daemon's exit would wait for them. Here a call has one thread at most, whoever asks while it
blocks waits for the same answer, and no exit waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class SlowCall(Generic[T]):
    """One function without arguments that blocks."""

    def __init__(self, name: str, function: Callable[[], T]) -> None:
        self._name = name
        self._function = function
        self._answer: asyncio.Future[T] | None = None

    @property
    def is_under_way(self) -> bool:
        """True while its thread blocks, whether or not anybody still waits for it."""
        return self._answer is not None

    async def answer(self, timeout_s: float) -> T:
        """What it returns or raises; TimeoutError where that takes longer."""
        if self._answer is None:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[T] = loop.create_future()
            threading.Thread(
                target=self._run, args=(loop, answer), name=self._name, daemon=True
            ).start()
            self._answer = answer
        answer = self._answer
        await asyncio.wait([answer], timeout=timeout_s)
        if not answer.done():
            raise TimeoutError
        return answer.result()

    def _run(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T]) -> None:
        tell: Callable[[], None]
        try:
            value = self._function()
        except Exception as error:
            tell = partial(answer.set_exception, error)
        else:
            tell = partial(answer.set_result, value)
        # A loop that is closed does not want to know any more.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._settle, answer, tell)

    def _settle(self, answer: asyncio.Future[T], tell: Callable[[], None]) -> None:
        self._answer = None
        tell()
        # Whoever asked may have given up; that is no reason to complain about a failure.
        answer.exception()

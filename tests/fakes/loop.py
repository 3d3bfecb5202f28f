"""A loop whose time a test moves: timers fire when it has come, one after another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class FakeTimer:
    """A timer of a ``FakeLoop``."""

    def __init__(self, at_s: float, callback: Callable[[], None]) -> None:
        self.at_s = at_s
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """As much of a loop as a clock with timers needs."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[FakeTimer] = []
        self.made = 0

    def time(self) -> float:
        return self.now_s

    def call_later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> FakeTimer:
        timer = FakeTimer(self.now_s + max(delay_s, 0), lambda: callback(*args))
        self.timers.append(timer)
        self.made += 1
        return timer

    @property
    def pending(self) -> list[FakeTimer]:
        self.timers = [timer for timer in self.timers if not timer.is_cancelled]
        return self.timers

    def pass_time(self, span_s: float) -> None:
        end_s = self.now_s + span_s
        while due := sorted((t for t in self.pending if t.at_s <= end_s), key=lambda t: t.at_s):
            self.timers.remove(due[0])
            self.now_s = max(self.now_s, due[0].at_s)
            due[0].callback()
        self.now_s = end_s


class ClockedLoop(FakeLoop):
    """The running loop, except for its clock and its timers."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.call_soon = loop.call_soon
        self.create_task = loop.create_task
        self.create_future = loop.create_future

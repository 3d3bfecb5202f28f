"""Calls that block: bounded for who asks, one thread at a time, never in the way of an exit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from orchd.runner.slow_call import SlowCall
from tests.conftest import Drive


class Gate:
    """A function that blocks until it is let go; counts its calls."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.calls = 0
        self.let_go = threading.Event()
        self._failure = failure

    def __call__(self) -> int:
        self.calls += 1
        assert self.let_go.wait(30)
        if self._failure is not None:
            raise self._failure
        return self.calls


def test_it_gives_what_the_function_returns_afresh_each_time(drive: Drive[None]) -> None:
    async def scenario() -> None:
        gate = Gate()
        gate.let_go.set()
        call = SlowCall("test", gate)
        assert [await call.answer(30), await call.answer(30)] == [1, 2]

    drive(scenario())


def test_it_raises_what_the_function_raises_to_each_who_asked(drive: Drive[None]) -> None:
    async def scenario() -> None:
        gate = Gate(ValueError("no"))
        call = SlowCall("test", gate)
        asking = [asyncio.create_task(call.answer(30)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.let_go.set()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [str(outcome) for outcome in outcomes] == ["no"] * 3
        assert gate.calls == 1

    drive(scenario())


def test_who_asks_while_it_blocks_gives_up_and_starts_no_second_thread(drive: Drive[None]) -> None:
    async def scenario() -> None:
        gate = Gate()
        call = SlowCall("test", gate)
        try:
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    await call.answer(0.01)
            assert gate.calls == 1
        finally:
            gate.let_go.set()
        assert await call.answer(30) in (1, 2)

    drive(scenario())


def test_cancelling_one_who_asks_leaves_the_others_their_answer(drive: Drive[None]) -> None:
    async def scenario() -> None:
        gate = Gate()
        call = SlowCall("test", gate)
        first, second = (asyncio.create_task(call.answer(30)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        gate.let_go.set()
        assert await second == 1

    drive(scenario())


def test_the_process_can_exit_while_it_blocks() -> None:
    program = """
import asyncio, threading
from orchd.runner.slow_call import SlowCall
async def main():
    try:
        await SlowCall("blocked", threading.Event().wait).answer(0.01)
    except TimeoutError:
        print("gave up")
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "gave up\n", "")

"""What every test may use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import settings

T = TypeVar("T")
Drive = Callable[[Coroutine[Any, Any, T]], T]

SCENARIO_TIMEOUT_S = 60.0

# The same examples in every run, and no time limit for one: a red run has its cause in the code.
# New examples: --hypothesis-profile=explore.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--histories",
        type=int,
        default=250,
        help="how many histories of a pool to live through, 50 steps each",
    )


@pytest.fixture
def drive() -> Drive[Any]:
    """Runs a scenario to its end on the daemon's own kind of loop.

    Fails where the scenario hangs, or leaves an asyncio task behind that it does not own up to.
    """

    def run(scenario: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_bounded(scenario))

    return run


async def _bounded(scenario: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(SCENARIO_TIMEOUT_S):
        result = await scenario
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert not left, f"tasks left behind: {left}"
    return result

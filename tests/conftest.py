"""What every test may use."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

import pytest
import uvloop
from hypothesis import settings

from tests.requirements import Ledger

T = TypeVar("T")
Drive = Callable[[Coroutine[Any, Any, T]], T]

SCENARIO_TIMEOUT_S = 60.0

# The same examples in every run, and no time limit for one: a red run has its cause in the code.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("fuzz", deadline=None, print_blob=True)
settings.load_profile("repeatable")

# A shell has what it runs in the background ignore these, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROUNDS = pytest.StashKey[Counter[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    about = "give each property test new examples for N seconds, instead of the same few"
    parser.addoption("--fuzz-seconds", type=float, default=0.0, metavar="N", help=about)
    about = "how long a real Prometheus gathers from a busy daemon"
    parser.addoption("--scrape-seconds", type=float, default=4.0, metavar="N", help=about)
    about = "how long a storm of reloads lasts"
    parser.addoption("--storm-seconds", type=float, default=8.0, metavar="N", help=about)
    about = "draws the models of that storm again; by default a new seed is taken, and printed"
    parser.addoption("--storm-seed", type=int, default=0, metavar="S", help=about)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROUNDS] = Counter()
    config.pluginmanager.register(Ledger(config))
    if config.getoption("--fuzz-seconds"):
        settings.load_profile("fuzz")


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Repeats a property test for as long as was asked; each round has a seed of its own."""
    until_s = time.monotonic() + item.config.getoption("--fuzz-seconds")
    yield
    if not getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
        return
    rounds = item.config.stash[ROUNDS]
    rounds[item.nodeid] += 1
    while time.monotonic() < until_s:
        item.runtest()
        rounds[item.nodeid] += 1


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--fuzz-seconds"):
        for test, rounds in config.stash[ROUNDS].items():
            terminalreporter.write_line(f"{test}: {rounds} rounds")


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

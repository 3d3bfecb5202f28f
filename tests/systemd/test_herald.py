"""What is told to the service manager, and when; and that a stalled loop feeds no watchdog."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from orchd.systemd.herald import LOOK_S, RUN_ON_S, Herald
from orchd.systemd.notifier import Notifier
from orchd.systemd.standing import Standing
from tests.fakes.loop import FakeLoop
from tests.fakes.service_manager import TIMEOUT_S, FakeServiceManager


class Stage:
    """A herald on a loop whose time the test moves, with a real socket to hear it."""

    def __init__(self, manager: FakeServiceManager, **environ: str) -> None:
        self.manager = manager
        self.loop = FakeLoop()
        self.standing = Standing("loading for 0 s", ("loading",))
        self.looks = 0
        self.herald = Herald(
            cast(asyncio.AbstractEventLoop, self.loop), Notifier(environ), self.look
        )

    def look(self) -> Standing:
        self.looks += 1
        return self.standing

    def pass_time(self, span_s: float) -> list[dict[str, str]]:
        """What is told meanwhile."""
        self.loop.pass_time(span_s)
        return self.manager.hear_all()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[FakeServiceManager]:
    with FakeServiceManager(str(tmp_path / "notify")) as manager:
        yield manager


@pytest.fixture
def stage(manager: FakeServiceManager) -> Iterator[Stage]:
    stage = Stage(manager, NOTIFY_SOCKET=manager.address)
    yield stage
    stage.herald.close()


@pytest.fixture
def watched(manager: FakeServiceManager) -> Iterator[Stage]:
    stage = Stage(manager, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="30000000")
    yield stage
    stage.herald.close()


def test_ready_at_once_whatever_loads(stage: Stage) -> None:
    stage.herald.start()
    assert stage.manager.hear_all() == [{"READY": "1", "STATUS": "loading for 0 s"}]


def test_a_turn_is_told_at_the_next_look_and_nothing_else(stage: Stage) -> None:
    stage.herald.start()
    assert len(stage.pass_time(RUN_ON_S * 3)) == 1
    stage.standing = Standing("ready", ("ready",))
    assert stage.pass_time(LOOK_S) == [{"STATUS": "ready"}]
    assert stage.pass_time(RUN_ON_S * 3) == []
    assert stage.looks > 30


def test_seconds_that_run_on_are_told_now_and_then(stage: Stage) -> None:
    stage.herald.start()
    told = stage.pass_time(0)
    for second in range(1, 31):
        stage.standing = Standing(f"loading for {second} s", ("loading",))
        told += stage.pass_time(1)
    lines = [message["STATUS"] for message in told]
    assert lines == [f"loading for {second} s" for second in (0, 10, 20, 30)]


def test_the_watchdog_is_fed_twice_in_its_span(watched: Stage) -> None:
    watched.herald.start()
    watched.manager.hear_all()
    assert watched.pass_time(29) == [{"WATCHDOG": "1"}]
    assert watched.pass_time(30) == [{"WATCHDOG": "1"}] * 2


def test_a_watchdog_that_asks_for_too_much_does_not_get_it(
    manager: FakeServiceManager,
) -> None:
    stage = Stage(manager, NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="1")
    stage.herald.start()
    stage.pass_time(0.1)
    assert 10 <= stage.loop.made <= 14  # and not a hundred thousand
    stage.herald.close()


def test_it_is_fed_while_the_daemon_stops(watched: Stage) -> None:
    watched.herald.start()
    watched.manager.hear_all()
    watched.herald.announce_stop("stopping: tasks have 20 s", 62.5)
    assert watched.manager.hear_all() == [
        {
            "STOPPING": "1",
            "STATUS": "stopping: tasks have 20 s",
            "EXTEND_TIMEOUT_USEC": "62500000",
        }
    ]
    watched.standing = Standing("one less", ("down",))
    assert watched.pass_time(30) == [{"WATCHDOG": "1"}] * 2
    watched.herald.tell("stopping: the engines")
    assert watched.manager.hear_all() == [{"STATUS": "stopping: the engines"}]


def test_nobody_who_did_not_ask_is_told(manager: FakeServiceManager) -> None:
    stage = Stage(manager, WATCHDOG_USEC="30000000")
    stage.herald.start()
    stage.herald.announce_stop("stopping", 1)
    assert (stage.pass_time(100), stage.looks, stage.loop.made) == ([], 0, 0)
    stage.herald.close()


def test_without_a_watchdog_none_is_fed(stage: Stage) -> None:
    stage.herald.start()
    assert all("WATCHDOG" not in message for message in stage.pass_time(1000))


def test_nothing_is_left_at_the_end(watched: Stage) -> None:
    watched.herald.start()
    watched.herald.close()
    assert watched.loop.pending == []


def test_what_was_not_taken_is_said_again(tmp_path: Path) -> None:
    address = str(tmp_path / "late")
    with FakeServiceManager(address) as manager:
        stage = Stage(manager, NOTIFY_SOCKET=address, WATCHDOG_USEC="30000000")
    stage.herald.start()
    stage.loop.pass_time(100)
    with FakeServiceManager(address) as stage.manager:
        first, *others = stage.pass_time(40)
        assert first == {"READY": "1", "STATUS": "loading for 0 s"}
        assert all(message == {"WATCHDOG": "1"} for message in others)
        assert others
    stage.herald.close()


def test_a_look_that_fails_is_not_the_last(stage: Stage) -> None:
    stage.herald.start()
    stage.manager.hear_all()
    told, stage.standing = stage.standing, cast(Standing, None)
    with pytest.raises(AttributeError):
        stage.loop.pass_time(LOOK_S)
    stage.standing = Standing("ready", ("ready",))
    assert told != stage.standing
    assert stage.pass_time(LOOK_S) == [{"STATUS": "ready"}]


STALLING = """
import asyncio, os, signal, sys
import uvloop
from orchd.systemd.herald import Herald
from orchd.systemd.notifier import Notifier
from orchd.systemd.standing import Standing

async def run():
    loop = asyncio.get_running_loop()
    herald = Herald(loop, Notifier(os.environ), lambda: Standing("up", ()))
    herald.start()

    def stall():
        os.write(1, b"stalled\\n")
        os.read(0, 1)  # which the loop should never do

    loop.add_signal_handler(signal.SIGUSR1, stall)
    await asyncio.Event().wait()

with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(run())
"""


def test_a_loop_that_stalls_starves_the_watchdog(manager: FakeServiceManager) -> None:
    span_s = 0.1
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": str(int(span_s * 1_000_000))}
    with subprocess.Popen(
        [sys.executable, "-c", STALLING],
        env=environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as daemon:
        assert daemon.stdin is not None and daemon.stdout is not None
        try:
            manager.hear_until("READY")
            for _ in range(3):
                manager.hear_until("WATCHDOG")
            daemon.send_signal(signal.SIGUSR1)
            assert daemon.stdout.readline() == b"stalled\n"
            manager.hear_all()
            assert manager.hear(span_s * 5) is None
            daemon.stdin.write(b"\n")
            daemon.stdin.flush()
            for _ in range(3):
                manager.hear_until("WATCHDOG")
        finally:
            daemon.kill()
            daemon.wait(TIMEOUT_S)

"""The watch over the GPUs: what is fresh, what is logged, and a driver that does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from orchd.runner.devices import DeviceMonitor
from orchd.runner.snapshot import NoReading, Reading, Snapshot, Unread
from tests.conftest import Drive
from tests.runner.gpus import gpu
from tests.runner.stage import until

TWO = (gpu(0, 8), gpu(1, 24))
NO_ANSWER = "the NVIDIA driver did not answer for 0.02 s"


class Driver:
    """Answers what a test says; may be held, so that no call returns."""

    def __init__(self, *readings: Reading | NoReading) -> None:
        self.readings = list(readings)
        self.calls = 0
        self.runs = threading.Event()
        self.runs.set()

    def read(self) -> Reading | NoReading:
        self.calls += 1
        reading = self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]
        assert self.runs.wait(30)
        return reading


@contextlib.asynccontextmanager
async def watching(
    read: Callable[[], Reading | NoReading], interval_s: float = 3600, timeout_s: float = 30
) -> AsyncIterator[DeviceMonitor]:
    monitor = DeviceMonitor(read, interval_s, timeout_s)
    monitor.start()
    try:
        yield monitor
    finally:
        await monitor.stop()


def test_before_the_first_answer_the_reason_is_that_nobody_was_asked(drive: Drive[None]) -> None:
    async def scenario() -> None:
        async with watching(Driver(TWO).read) as monitor:
            has_read = [monitor.has_read]
            assert monitor.snapshot.reason == "the NVIDIA driver has not been asked yet"
            await monitor.fresh()
            assert [*has_read, monitor.has_read] == [False, True]
            assert monitor.snapshot.gpus == TWO

    drive(scenario())


def test_it_samples_by_itself(drive: Drive[None]) -> None:
    async def scenario() -> None:
        driver = Driver(TWO)
        async with watching(driver.read, interval_s=0.01):
            await until(lambda: driver.calls >= 3)

    drive(scenario())


def test_fresh_is_what_was_read_after_the_question(drive: Drive[None]) -> None:
    """A reading that is under way may have looked before."""

    async def scenario() -> None:
        driver = Driver(TWO, TWO[:1])
        driver.runs.clear()
        async with watching(driver.read) as monitor:
            await until(lambda: driver.calls == 1)
            asking = [asyncio.create_task(monitor.fresh()) for _ in range(3)]
            await asyncio.sleep(0)
            driver.runs.set()
            assert [(await ask).gpus for ask in asking] == [TWO[:1]] * 3
            assert driver.calls == 2

    drive(scenario())


def test_who_asks_and_gives_up_holds_up_nobody(drive: Drive[None]) -> None:
    async def scenario() -> None:
        driver = Driver(TWO)
        driver.runs.clear()
        async with watching(driver.read) as monitor:
            first, second = (asyncio.create_task(monitor.fresh()) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            driver.runs.set()
            assert (await second).gpus == TWO

    drive(scenario())


def test_a_driver_that_does_not_answer_is_said_to_and_is_heard_when_it_does(
    drive: Drive[None],
) -> None:
    async def scenario() -> None:
        driver = Driver(TWO)
        async with watching(driver.read, timeout_s=0.02) as monitor:
            await monitor.fresh()
            driver.runs.clear()
            try:
                for _ in range(3):
                    snapshot = await monitor.fresh()
                    assert snapshot.reason == NO_ANSWER
                    assert [held.uuid for held in snapshot.quarantined] == ["GPU-0", "GPU-1"]
                assert driver.calls == 2, "one thread at a time"
            finally:
                driver.runs.set()
            while (await monitor.fresh()).reason is not None:
                pass
            assert monitor.snapshot.gpus == TWO

    drive(scenario())


def test_an_answer_that_comes_too_late_is_asked_for_again(drive: Drive[None]) -> None:
    async def scenario() -> None:
        driver = Driver(TWO, TWO[:1])
        driver.runs.clear()
        async with watching(driver.read, timeout_s=0.02) as monitor:
            try:
                assert (await monitor.fresh()).reason == NO_ANSWER
            finally:
                driver.runs.set()
            snapshot = await monitor.fresh()
            while snapshot.reason is not None:
                snapshot = await monitor.fresh()
            assert snapshot.gpus == TWO[:1]

    drive(scenario())


def test_a_bug_in_the_reading_is_a_reason_and_no_end(
    drive: Drive[None], caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> Reading:
        raise ValueError("a bug")

    async def scenario() -> None:
        async with watching(read) as monitor:
            for _ in range(2):
                snapshot = await monitor.fresh()
                assert snapshot.reason == "the GPUs cannot be read: a bug in orchd"

    drive(scenario())
    assert "ValueError: a bug" in caplog.text


def test_who_watches_hears_of_it_before_who_waits_and_may_fail(
    drive: Drive[None], caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Snapshot] = []

    def fail(snapshot: Snapshot) -> None:
        raise ValueError("a bug")

    async def scenario() -> None:
        async with watching(Driver(TWO).read) as monitor:
            monitor.watch(fail)
            monitor.watch(heard.append)
            snapshot = await monitor.fresh()
            assert heard[-1] is snapshot

    drive(scenario())
    assert "ValueError: a bug" in caplog.text


def test_a_stop_ends_those_who_wait(drive: Drive[None]) -> None:
    async def scenario() -> None:
        driver = Driver(TWO)
        driver.runs.clear()
        try:
            async with watching(driver.read) as monitor:
                asking = asyncio.create_task(monitor.fresh())
                await asyncio.sleep(0)
            with pytest.raises(asyncio.CancelledError):
                await asking
        finally:
            driver.runs.set()

    drive(scenario())


def test_each_change_is_logged_once(drive: Drive[None], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lost = Unread("has fallen off the bus", is_lost=True)

    async def scenario() -> None:
        story: list[Reading | NoReading] = [
            *(TWO, TWO, (lost, TWO[1]), (lost, TWO[1]), (lost, TWO[1]), TWO),
            *(NoReading("no driver"), NoReading("no driver"), TWO, TWO),
        ]
        async with watching(Driver(*story).read) as monitor:
            for _ in story[1:]:
                await monitor.fresh()

    drive(scenario())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "found GPU 0 device=GPU-0: card 0"),
        ("INFO", "found GPU 1 device=GPU-1: card 1"),
        ("WARNING", "quarantined GPU 0 device=GPU-0: has fallen off the bus"),
        ("INFO", "took GPU 0 back into use device=GPU-0"),
        ("WARNING", "cannot see any GPU: no driver"),
        ("INFO", "can see the GPUs again"),
    ]


def test_a_machine_without_a_driver_is_told_of_once_and_quietly(
    drive: Drive[None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with watching(Driver(NoReading("no driver")).read) as monitor:
            for _ in range(3):
                await monitor.fresh()

    drive(scenario())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "cannot see any GPU: no driver")
    ]

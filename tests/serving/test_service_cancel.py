"""Cancelling a task wherever it stands."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchd.errors import Code
from orchd.serving.task import Ended, Failed, Priority, Started, State
from tests.conftest import Drive
from tests.fakes.engine import Call, FakeEngine, Script, hangs, tells, waits
from tests.serving.rig import Rig, fails


def test_cancelled_in_the_queue(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs()) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            running, queued, behind = rig.submit(), rig.submit(), rig.submit()
            await engine.wait_for_calls(1)
            rig.service.cancel(queued)
            assert rig.logged(queued) == [
                Failed(Code.CANCELLED, "cancelled by the client", "llamacpp")
            ]
            assert rig.service.queue_depths("chat")[Priority.INTERACTIVE] == 1
            rig.service.cancel(running)
            await engine.wait_for_calls(2)
            assert behind.task.state is not State.QUEUED
            assert len(engine.calls) == 2

    drive(scenario())


def test_cancelled_before_the_runs_first_step(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            entry, behind = rig.submit(), rig.submit()
            assert entry.task.state is State.GRANTED
            rig.service.cancel(entry)
            assert fails(rig.logged(entry)[0]) == Code.CANCELLED
            assert isinstance((await rig.story(behind))[-1], Ended)
            await rig.until_free()
            assert len(engine.calls) == 1, "the engine never heard of it"

    drive(scenario())


@pytest.mark.parametrize("is_accepted", [False, True])
def test_cancelled_before_its_first_token(drive: Drive[Any], is_accepted: bool) -> None:
    """Waiting for the engine's slot, or reading the prompt."""

    async def scenario() -> None:
        async with FakeEngine(hangs(accepts=is_accepted), tells("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            entry, behind = rig.submit(), rig.submit()
            listening = rig.listen(entry)
            call = await engine.wait_for_calls(1)
            if is_accepted:
                await listening.until(lambda it: bool(it.events))
            rig.service.cancel(entry)
            story = await listening.to_the_end()
            assert story[:-1] == [Started(0, 0)] * is_accepted
            assert fails(story[-1]) == Code.CANCELLED
            await call.is_left.wait()
            assert isinstance((await rig.story(behind))[-1], Ended)
            await rig.until_free()

    drive(scenario())


def test_cancelled_while_decoding_no_token_is_logged_any_more(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async def floods(call: Call) -> None:
            call.accept()
            while True:
                call.say("a")
                await asyncio.sleep(0)

        async with FakeEngine(floods, tells("b")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            entry, behind = rig.submit(), rig.submit()
            listening = rig.listen(entry)
            await listening.until_tokens(3)
            rig.service.cancel(entry)
            events = len(entry.log)
            rig.service.cancel(entry)
            assert fails(rig.logged(entry)[-1]) == Code.CANCELLED
            await engine.calls[0].is_left.wait()
            assert isinstance((await rig.story(behind))[-1], Ended)
            assert len(entry.log) == events
            listening.leave()

    drive(scenario())


async def tells_in_one_bunch(call: Call) -> None:
    call.accept()
    call.stream(call.token("a") + call.token("b") + call.token("c") + call.last())
    call.send(b"0\r\n\r\n")


@pytest.mark.parametrize("script", [tells("a", "b", "c"), tells_in_one_bunch])
def test_cancelled_when_each_event_comes(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture, script: Script
) -> None:
    """From within the turn that logs an event, whichever it is: no second end, no leaked slot."""

    async def scenario() -> None:
        for at in range(5):
            async with FakeEngine(script) as engine, Rig() as rig:
                rig.open(engine.endpoint, slots=1)
                entry, behind = rig.submit(), rig.submit()

                def cancel_at(rig: Rig = rig, entry: Any = entry, at: int = at) -> None:
                    if len(entry.log) == at + 1:
                        rig.service.cancel(entry)

                entry.watch("canceller", cancel_at)
                story = await rig.story(entry)
                assert len(story) == min(at + 2, 5)
                assert isinstance(story[-1], Ended if at == 4 else Failed)
                assert isinstance((await rig.story(behind))[-1], Ended)
                await rig.until_free()

    drive(scenario())
    assert not caplog.records


def test_cancelling_an_ended_task_does_nothing(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            story = await rig.story(entry)
            rig.service.cancel(entry)
            assert rig.logged(entry) == story

    drive(scenario())


def test_cancelled_between_its_two_chances(drive: Drive[Any]) -> None:
    """Its first run still holds a slot to settle, and must not be mistaken for a run of it."""

    async def scenario() -> None:
        async def dies_without_a_token(call: Call) -> None:
            call.accept()

        async with FakeEngine(dies_without_a_token) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            entry = rig.submit()
            listening = rig.listen(entry)
            await listening.until(lambda it: bool(it.events))
            while entry.task.state is not State.QUEUED:  # noqa: ASYNC110, nothing tells of it
                await asyncio.sleep(0)
            assert entry.grant is None and rig.busy() == 1
            rig.service.cancel(entry)
            assert fails((await listening.to_the_end())[-1]) == Code.CANCELLED
            assert rig.service.queue_depths("chat")[Priority.INTERACTIVE] == 0
            rig.close()
            await rig.service.finish_tasks(60)

    drive(scenario())


def test_a_storm_of_cancels_leaves_the_slots_as_they_were(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with FakeEngine(waits(gate, "a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=4)
            entries = [rig.submit() for _ in range(40)]
            for n, entry in enumerate(entries):
                for _ in range(n % 4):
                    await asyncio.sleep(0)
                if n % 3:
                    rig.service.cancel(entry)
            gate.set()
            for n, entry in enumerate(entries):
                story = await rig.story(entry)
                assert isinstance(story[-1], Failed if n % 3 else Ended)
            await rig.until_free()

    drive(scenario())

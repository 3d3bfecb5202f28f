"""An engine that breaks, refuses or vanishes; replicas that close and open again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from orchd.engines.adapter import Generation
from orchd.errors import Code
from orchd.serving.entry import Entry
from orchd.serving.task import Ended, Failed, Started, State, TaskEvent, Token
from tests.conftest import Drive
from tests.fakes.engine import Call, FakeEngine, Script, dies, event, hangs, refuses, tells
from tests.serving.rig import NEVER_S, Rig, fails, states
from tests.serving.samples import make_pool


def sends(data: bytes) -> Script:
    async def script(call: Call) -> None:
        call.send(data)

    return script


def streams(data: bytes) -> Script:
    async def script(call: Call) -> None:
        call.accept()
        call.stream(data)
        await call.is_left.wait()

    return script


CONTEXT_FULL = event({"error": {"code": 500, "message": "Context size has been exceeded."}})
BREAKS: dict[str, Script] = {
    "EOF before the head": dies(accepts=False),
    "RST before the head": dies(accepts=False, resets=True),
    "EOF before a token": dies(),
    "RST before a token": dies(resets=True),
    "half a chunk": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\ndata"),
    "no HTTP": sends(b"SSH-2.0-x\r\n"),
    "no JSON": streams(b"data: {\n\n"),
    "no completion": streams(b'data: {"hello":1}\n\n'),
    "gives up": streams(CONTEXT_FULL),
    "empty pieces for ever": streams(event({"content": "", "stop": False}) * 5000),
    "no last event": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n:\n\n"),
    "503": refuses(503, message="Loading model"),
    "500 without JSON": refuses(500, b"<html>"),
}


@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
def test_a_break_before_the_first_token_is_not_seen(drive: Drive[Any], script: Script) -> None:
    async def scenario() -> None:
        async with FakeEngine(script, tells("a")) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint, slots=1)
            story = await rig.story(rig.submit())
            await rig.until_free()
        assert story[:2] == [Started(0, 0), Token("a", 0)]
        assert isinstance(story[-1], Ended)
        assert len(engine.calls) == 2

    drive(scenario())


@pytest.mark.parametrize("script", BREAKS.values(), ids=BREAKS)
def test_a_second_break_is_the_end(drive: Drive[Any], script: Script) -> None:
    async def scenario() -> None:
        async with FakeEngine(script) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint)
            story = await rig.story(rig.submit())
            await rig.until_free()
        assert fails(story[-1]) == Code.WORKER_RESET
        assert story[:-1] in ([], [Started(0, 0)])
        assert len(engine.calls) == 2

    drive(scenario())


@pytest.mark.parametrize("resets", [True, False])
def test_a_break_after_a_token_is_the_end(drive: Drive[Any], resets: bool) -> None:
    async def scenario() -> None:
        async with FakeEngine(dies("a", resets=resets)) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint)
            story = await rig.story(rig.submit())
            await rig.until_free()
        # A reset may overtake what was sent before it; then the task had its second chance.
        assert resets or story[:-1] == [Started(0, 0), Token("a", 0)]
        error = story[-1]
        assert fails(error) == Code.WORKER_RESET
        assert isinstance(error, Failed) and error.engine == "llamacpp"
        assert error.message == "replica r0 hung up before the end of its answer"

    drive(scenario())


@pytest.mark.parametrize("status", [400, 404, 422])
def test_what_the_engine_refuses_is_the_tasks_fault(drive: Drive[Any], status: int) -> None:
    async def scenario() -> None:
        async with FakeEngine(refuses(status, message="too long"), tells()) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            first, second = rig.submit(), rig.submit()
            assert await rig.story(first) == [Failed(Code.INVALID_PARAMS, "too long", "llamacpp")]
            assert isinstance((await rig.story(second))[-1], Ended)

    drive(scenario())


def test_a_refusal_in_mid_stream(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        said = event({"error": {"code": 400, "message": "no such grammar"}})
        async with FakeEngine(streams(said)) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            story = await rig.story(rig.submit())
            assert story == [
                Started(0, 0),
                Failed(Code.INVALID_PARAMS, "no such grammar", "llamacpp"),
            ]

    drive(scenario())


def test_an_engine_that_never_stops_is_stopped(drive: Drive[Any]) -> None:
    """Else the log would grow without a bound."""

    async def scenario() -> None:
        async def goes_on(call: Call) -> None:
            call.accept()
            while True:
                call.say("a")
                await asyncio.sleep(0)

        pool = make_pool(ctx=20)
        async with FakeEngine(goes_on) as engine, Rig(pool, settle_s=0.001) as rig:
            rig.open(engine.endpoint)
            for generation, limit in (
                (Generation(prompt="Once", max_tokens=3), 3),
                (Generation(prompt="Once"), 20),
            ):
                story = await rig.story(rig.submit(generation))
                assert fails(story[-1]) == Code.WORKER_RESET
                assert len(story) == limit + 2
            for call in engine.calls:
                await call.is_left.wait()

    drive(scenario())


def test_a_text_longer_than_its_tokens_can_be_is_cut_off(drive: Drive[Any]) -> None:
    """The log is bounded by the tokens, and so must be what one of them may hold."""

    async def scenario() -> None:
        async def goes_on(call: Call) -> None:
            call.accept()
            while not call.is_left.is_set():
                call.say("x" * 1_000_000)
                await asyncio.sleep(0)

        async with FakeEngine(goes_on) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint)
            story = await rig.story(rig.submit(Generation(prompt="Once", max_tokens=64)))
            assert fails(story[-1]) == Code.WORKER_RESET
            assert len([said for said in story if isinstance(said, Token)]) == 4

    drive(scenario())


# -- replicas that die -----------------------------------------------------------------------------


async def until_queued(*entries: Entry) -> None:
    while states(*entries) != [State.QUEUED] * len(entries):  # noqa: ASYNC110, nothing tells of it
        await asyncio.sleep(0)


def test_tasks_of_a_dead_replica_go_on_in_order_when_it_is_back(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def dies_with_all(call: Call) -> None:
            call.accept()
            await gate.wait()

        asked: list[str] = []

        async def answers(call: Call) -> None:
            asked.append(call.body["prompt"])
            await tells("a")(call)

        async with FakeEngine(dies_with_all) as dead, FakeEngine(answers) as alive, Rig() as rig:
            rig.open(dead.endpoint, slots=3)
            entries = [rig.submit(Generation(prompt=f"prompt {n}")) for n in range(5)]
            await dead.wait_for_calls(3)
            gate.set()
            await until_queued(*entries)
            # The socket's end came before the process's: nothing is granted on it meanwhile.
            entries.append(rig.submit(Generation(prompt="prompt 5")))
            for _ in range(200):
                await asyncio.sleep(0)
            assert states(*entries) == [State.QUEUED] * 6
            rig.close()
            await rig.service.finish_tasks(60)
            rig.open(alive.endpoint, slots=1)
            for entry in entries:
                assert isinstance((await rig.story(entry))[-1], Ended)
            assert asked == [f"prompt {n}" for n in range(6)]
            assert len(dead.calls) == 3

    drive(scenario())


def test_a_task_of_a_dead_replica_goes_to_another_at_once(drive: Drive[Any]) -> None:
    """Not when the dead one has settled, which here is never."""

    async def scenario() -> None:
        async with (
            FakeEngine(dies()) as dead,
            FakeEngine(tells("a"), replica_id="r1") as alive,
            Rig(settle_s=NEVER_S) as rig,
        ):
            rig.open(dead.endpoint, slots=4)
            rig.open(alive.endpoint, slots=1)
            story = await rig.story(rig.submit())
            assert isinstance(story[-1], Ended)
            assert (len(dead.calls), len(alive.calls)) == (1, 1)
            assert rig.busy("r0") == 1

    drive(scenario())


def test_a_replica_closed_before_the_runs_first_step(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(dies()) as dead, FakeEngine(tells("a")) as alive, Rig() as rig:
            rig.open(dead.endpoint)
            entry = rig.submit()
            rig.close()
            await until_queued(entry)
            rig.open(alive.endpoint)
            assert isinstance((await rig.story(entry))[-1], Ended)

    drive(scenario())


def test_a_replica_closed_and_opened_before_the_runs_first_step(drive: Drive[Any]) -> None:
    """The grant is on the slots that were closed, so the run is on the engine that had them."""

    async def scenario() -> None:
        async with FakeEngine(dies()) as dead, FakeEngine(tells("a")) as alive, Rig() as rig:
            rig.open(dead.endpoint, slots=1)
            entry = rig.submit()
            rig.close()
            rig.open(alive.endpoint, slots=1)
            assert isinstance((await rig.story(entry))[-1], Ended)
            assert (len(dead.calls), len(alive.calls)) == (1, 1)
            await rig.until_free()

    drive(scenario())


def test_a_replica_opens_again_while_an_old_run_still_ends(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def ends_late(call: Call) -> None:
            call.accept()
            call.say("a")
            await gate.wait()
            call.finish()

        async with FakeEngine(ends_late) as old, FakeEngine(hangs("b")) as new, Rig() as rig:
            rig.open(old.endpoint, slots=1)
            first = rig.submit()
            await old.wait_for_calls(1)
            rig.close()
            rig.open(new.endpoint, slots=1)
            second, third = rig.submit(), rig.submit()
            await new.wait_for_calls(1)
            gate.set()
            assert isinstance((await rig.story(first))[-1], Ended)
            await asyncio.sleep(0)
            assert (rig.busy(), third.task.state) == (1, State.QUEUED)
            rig.service.cancel(second)
            await new.wait_for_calls(2)

    drive(scenario())


def test_a_break_while_stopping_is_the_end(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def dies_later(call: Call) -> None:
            call.accept()
            await gate.wait()

        async with FakeEngine(dies_later) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            await engine.wait_for_calls(1)
            rig.service.stop_admission()
            gate.set()
            assert fails((await rig.story(entry))[-1]) == Code.WORKER_RESET
            rig.close()
            await rig.service.finish_tasks(60)

    drive(scenario())


def test_the_end_comes_while_a_slot_settles(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(dies()) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            await engine.wait_for_calls(1)
            await until_queued(entry)
            rig.service.stop_admission()
            await rig.service.end_tasks()
            assert fails(rig.logged(entry)[-1]) == Code.POOL_UNAVAILABLE
            assert rig.busy() == 0

    drive(scenario())


# -- bugs of our own -------------------------------------------------------------------------------


def raise_at(text: str) -> Callable[[TaskEvent], None]:
    def check(event: TaskEvent) -> None:
        if isinstance(event, Token) and event.text == text:
            raise ValueError("a bug")

    return check


def test_a_bug_ends_its_task_and_no_other(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        rig = Rig(on_encode=raise_at("b"))
        async with FakeEngine(hangs("a", "b"), tells("c")) as engine, rig:
            rig.open(engine.endpoint, slots=1)
            first, second = rig.submit(), rig.submit()
            story = await rig.story(first)
            assert story == [
                Started(0, 0),
                Token("a", 0),
                Failed(Code.INTERNAL, "a bug in orchd", "llamacpp"),
            ]
            await engine.calls[0].is_left.wait()
            assert isinstance((await rig.story(second))[-1], Ended)
            await rig.until_free()

    drive(scenario())
    (record,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert record.exc_info is not None and "task failed inside the daemon" in record.message

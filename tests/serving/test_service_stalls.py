"""Engines that hang, and engines that only break tasks; the time is the test's own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from orchd.engines.adapter import ChatTurn, EngineRequest, Generation, PromptProgress
from orchd.engines.llamacpp import LlamaCpp
from orchd.errors import Code
from orchd.serving.entry import Entry
from orchd.serving.task import Ended, Failed, Started, State, TaskEvent, Token
from tests.conftest import Drive
from tests.fakes.engine import Call, FakeEngine, Script, dies, event, hangs, refuses, tells
from tests.fakes.loop import ClockedLoop
from tests.serving.rig import PROMPT, Rig, fails, states

STALL_S = 60.0
"""The default of ``decode_stall_s``."""
CHAT = Generation(messages=(ChatTurn("user", "Hello"),))
STALLED = Failed(Code.DECODE_TIMEOUT, "replica r0 made no progress for 60 s", "llamacpp")
UNSAID = event({"content": "", "stop": False})
SILENT = "has not answered since a task made no progress for 60 s"


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110, nothing tells of it
        await asyncio.sleep(0)


async def turns() -> None:
    """Let everything happen that can happen by itself."""
    for _ in range(200):
        await asyncio.sleep(0)


async def stall(clock: ClockedLoop, *entries: Entry) -> None:
    """Let the time pass that these have, and no moment more."""
    clock.pass_time(STALL_S - 1)
    await turns()
    assert not any(entry.task.has_ended for entry in entries)
    clock.pass_time(2)
    await until(lambda: all(entry.task.has_ended for entry in entries))


async def floods_pings(call: Call) -> None:
    call.accept()
    while not call.is_left.is_set():
        call.stream(b":\n\n")
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("script", "before"),
    [
        pytest.param(hangs(accepts=False), [], id="accepts the connection and no more"),
        pytest.param(hangs(), [Started(0, 0)], id="accepts the task and no more"),
        pytest.param(hangs("a"), [Started(0, 0), Token("a", 0)], id="stops in mid-stream"),
        pytest.param(floods_pings, [Started(0, 0)], id="only pings"),
    ],
)
def test_a_task_without_progress_is_ended_and_never_tried_again(
    drive: Drive[Any], script: Script, before: list[TaskEvent]
) -> None:
    async def scenario() -> None:
        async with FakeEngine(script, tells("b")) as engine, Rig() as rig:
            clock = rig.take_clock()
            rig.open(engine.endpoint, slots=1)
            entry = rig.submit()
            call = await engine.wait_for_calls(1)
            await until(lambda: len(entry.log) == len(before))
            await stall(clock, entry)
            assert rig.logged(entry) == [*before, STALLED]
            await call.is_left.wait()
            await rig.until_free()
            assert len(engine.calls) == 1
            assert clock.pending == [
                t for t in clock.pending if t in rig.service._abandonment._clocks.values()
            ]

    drive(scenario())


async def until_news(entry: Entry, prompt: PromptProgress | None, events: int) -> None:
    await until(lambda: (entry.task.prompt, len(entry.log)) != (prompt, events))


async def say_text(call: Call, n: int) -> None:
    call.say("a")


async def read_on(call: Call, n: int) -> None:
    call.read(100 * (n + 1), 100_000)


async def say_nothing(call: Call, n: int) -> None:
    """A token without text, and a repetition by which the test sees that it was heard."""
    call.stream(event({"choices": [{"delta": {"reasoning_content": "so"}}]}, chat=True))
    call.read(1, 100_001 + n)


async def ping(call: Call, n: int) -> None:
    call.stream(b":\n\n")
    call.read(1, 100_001 + n)


@pytest.mark.parametrize(
    ("generation", "act", "is_progress"),
    [
        pytest.param(PROMPT, say_text, True, id="text"),
        pytest.param(CHAT, say_text, True, id="text of a chat"),
        pytest.param(PROMPT, read_on, True, id="prompt"),
        pytest.param(CHAT, read_on, True, id="prompt of a chat"),
        pytest.param(CHAT, say_nothing, True, id="a thought"),
        pytest.param(PROMPT, ping, False, id="a ping and a repetition"),
        pytest.param(CHAT, ping, False, id="a ping and a repetition in a chat"),
    ],
)
def test_what_is_progress(
    drive: Drive[Any], generation: Generation, act: Any, is_progress: bool
) -> None:
    async def scenario() -> None:
        async def script(call: Call) -> None:
            call.accept()
            call.read(1, 100_000)
            await call.is_left.wait()

        async with FakeEngine(script) as engine, Rig() as rig:
            clock = rig.take_clock()
            rig.open(engine.endpoint)
            entry = rig.submit(generation)
            call = await engine.wait_for_calls(1)
            await until(lambda: entry.task.prompt is not None)
            for n in range(3):
                clock.pass_time(STALL_S - 1)
                await turns()
                if entry.task.has_ended:
                    break
                seen = (entry.task.prompt, len(entry.log))
                await act(call, n)
                await until_news(entry, *seen)
            assert entry.task.has_ended != is_progress
            await stall(clock, *[entry] * is_progress)
            assert rig.logged(entry)[-1] == STALLED

    drive(scenario())


def test_who_waits_is_told_how_far_the_prompt_is_read(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async def script(call: Call) -> None:
            call.accept()
            call.read(512, 3001)
            if len(engine.calls) > 1:
                await call.is_left.wait()

        async with FakeEngine(script) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint, slots=1)
            entry = rig.submit()
            await until(lambda: entry.task.prompt is not None)
            assert entry.describe_wait() == "the engine is reading the prompt (512 of 3001 tokens)"
            await until(lambda: entry.task.state is State.QUEUED)
            assert entry.task.prompt is None, "another replica reads it from its start"
            await engine.wait_for_calls(2)
            await until(lambda: entry.task.prompt is not None)
            assert len(rig.logged(entry)) == 1, "that is no event"

    drive(scenario())


def test_a_prompt_waits_for_that_of_another_slot_but_not_for_its_tokens(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs()) as engine, Rig() as rig:
            clock = rig.take_clock()
            rig.open(engine.endpoint, slots=2)
            other, waiting = rig.submit_batch(), rig.submit_batch()
            call, _ = await engine.wait_for_calls(1), await engine.wait_for_calls(2)
            for n in range(1, 4):
                clock.pass_time(STALL_S - 1)
                seen = other.task.prompt
                call.read(n, 3)
                await until_news(other, seen, len(other.log))
            clock.pass_time(STALL_S - 1)
            call.say("a")
            await until(lambda: other.task.tokens_logged == 1)
            assert not waiting.task.has_ended
            clock.pass_time(2)
            await until(lambda: waiting.task.has_ended)
            assert not other.task.has_ended

    drive(scenario())


# -- whether the engine answers --------------------------------------------------------------------


@pytest.mark.parametrize("status", [None, 400, 404, 503])
def test_one_that_answers_goes_on_and_its_other_tasks_with_it(
    drive: Drive[Any], status: int | None
) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a"), hangs("b"), tells("c")) as engine, Rig() as rig:
            clock = rig.take_clock()
            rig.open(engine.endpoint, slots=3)
            hung, other = rig.submit_batch(), rig.submit_batch()
            call = await engine.wait_for_calls(2)
            for entry in (hung, other):
                await rig.listen(entry).until_tokens(1)
            engine.lingering = 1
            clock.pass_time(STALL_S - 1)
            call.say("b")
            await until(lambda: other.task.tokens_logged == 2)
            clock.pass_time(2)
            await until(lambda: hung.task.has_ended)
            behind = rig.submit_batch()
            await until(lambda: engine.slots_asked > 2)
            assert behind.task.state is State.QUEUED, "a doubted replica is granted nothing"
            if status is not None:
                engine.slots_answer = b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n[]" % status
            engine.lingering = 0
            if status in (None, 404):
                assert isinstance((await rig.story(behind))[-1], Ended)
            else:
                await turns()
            assert rig.stuck == [] and not other.task.has_ended

    drive(scenario())


@pytest.mark.parametrize("answer", [None, b"", b"SSH-2.0-x\r\n\r\n"])
def test_one_that_does_not_answer_is_reported(drive: Drive[Any], answer: bytes | None) -> None:
    async def scenario() -> None:
        rig = Rig(answer_s=0.05)
        async with FakeEngine(hangs("a"), hangs()) as engine, FakeEngine(tells("b")) as fresh, rig:
            clock = rig.take_clock()
            engine.is_silent_on_slots, engine.slots_answer = answer is None, answer
            rig.open(engine.endpoint, slots=3)
            hung = rig.submit_batch()
            await rig.listen(hung).until_tokens(1)
            clock.pass_time(STALL_S / 2)
            other = rig.submit_batch()
            await engine.wait_for_calls(2)
            clock.pass_time(STALL_S / 2 + 1)
            await until(lambda: hung.task.has_ended)
            behind = rig.submit_batch()
            await until(lambda: bool(rig.stuck))
            assert rig.stuck == [("chat", "r0", SILENT)]
            assert engine.slots_asked == 1 and behind.task.state is State.QUEUED
            assert rig.close() == (hung.task.spec.task_id, other.task.spec.task_id)
            engine.calls[1].reset()
            rig.open(fresh.endpoint)
            for entry in (other, behind):
                assert isinstance((await rig.story(entry))[-1], Ended)
            assert rig.logged(hung)[-1] == STALLED

    drive(scenario())


def test_one_that_answers_and_works_on_at_the_task_is_reported(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig(free_within_s=0.05) as rig:
            clock = rig.take_clock()
            rig.open(engine.endpoint)
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            engine.lingering = 1
            clock.pass_time(STALL_S + 1)
            await until(lambda: bool(rig.stuck))
            reason = "worked on for 0.05 s at a task that was cut short"
            assert rig.stuck == [("chat", "r0", reason)]
            rig.close()

    drive(scenario())


def test_one_that_is_closed_meanwhile_is_not_reported(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig(answer_s=0.05) as rig:
            clock = rig.take_clock()
            engine.is_silent_on_slots = True
            rig.open(engine.endpoint)
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            clock.pass_time(STALL_S + 1)
            await until(lambda: bool(engine.slots_asked))
            rig.close()
            await until(lambda: not rig.service._runs)
            assert rig.stuck == []

    drive(scenario())


class WithoutSlots(LlamaCpp):
    """An engine that cannot tell of its slots."""

    def slots_request(self) -> EngineRequest | None:
        return None


@pytest.mark.parametrize(
    ("health", "is_stuck"),
    [(refuses(503), False), (refuses(401), False), (dies(accepts=False), True)],
)
def test_one_that_has_no_slots_is_asked_for_its_health(
    drive: Drive[Any], health: Script, is_stuck: bool
) -> None:
    async def scenario() -> None:
        rig = Rig(adapters={"llamacpp": WithoutSlots()})
        async with FakeEngine(hangs("a"), health) as engine, rig:
            clock = rig.take_clock()
            rig.open(engine.endpoint)
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            clock.pass_time(STALL_S + 1)
            call = await engine.wait_for_calls(2)
            assert (call.method, call.path) == ("GET", "/health")
            await until(lambda: bool(rig.stuck) or not rig.busy())
            assert rig.stuck == [("chat", "r0", SILENT)] * is_stuck
            rig.close()

    drive(scenario())


# -- engines that only break tasks -----------------------------------------------------------------

BROKE = "broke tasks 3 times in a row, the last: hung up before the end of its answer"


def test_one_that_breaks_task_after_task_is_reported(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(dies()) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint, slots=1)
            first, second, third = (rig.submit_batch() for _ in range(3))
            await until(lambda: bool(rig.stuck))
            assert rig.stuck == [("chat", "r0", BROKE)]
            assert fails(rig.logged(first)[-1]) == Code.WORKER_RESET
            await turns()
            assert states(second, third) == [State.QUEUED] * 2 and len(engine.calls) == 3
            rig.close()

    drive(scenario())


def test_one_that_dies_is_not_reported(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(dies()) as engine, Rig(settle_s=0.05) as rig:
            rig.open(engine.endpoint, slots=1)
            rig.submit_batch(), rig.submit_batch()
            await engine.wait_for_calls(3)
            rig.close()
            await until(lambda: not rig.service._runs)
            assert rig.stuck == []

    drive(scenario())


@pytest.mark.parametrize("good", [tells("a"), refuses(400)], ids=["ends", "refuses"])
def test_one_that_ends_a_task_itself_begins_anew(drive: Drive[Any], good: Script) -> None:
    async def scenario() -> None:
        scripts = (dies(), dies(), good, dies(), dies(), good, hangs())
        async with FakeEngine(*scripts) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint, slots=1)
            for _ in range(5):
                rig.submit_batch()
            await engine.wait_for_calls(7)
            assert rig.stuck == []

    drive(scenario())


@pytest.mark.parametrize("status", [408, 425, 429])
def test_not_now_is_neither_the_tasks_fault_nor_the_engines(drive: Drive[Any], status: int) -> None:
    async def scenario() -> None:
        script = refuses(status, message="come back later")
        async with FakeEngine(script) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint, slots=1)
            entries = [rig.submit_batch() for _ in range(6)]
            expected = [Failed(Code.POOL_UNAVAILABLE, "come back later", "llamacpp")]
            assert [await rig.story(entry) for entry in entries] == [expected] * 6
            await rig.until_free()
            assert rig.stuck == [] and len(engine.calls) == 6

    drive(scenario())


@pytest.mark.parametrize("status", [401, 403])
def test_who_does_not_take_our_key_is_not_our_engine(drive: Drive[Any], status: int) -> None:
    async def scenario() -> None:
        async with FakeEngine(refuses(status)) as engine, Rig(settle_s=0.001) as rig:
            rig.open(engine.endpoint, slots=1)
            first, _ = rig.submit_batch(), rig.submit_batch()
            error = (await rig.story(first))[-1]
            assert fails(error) == Code.WORKER_RESET
            await until(lambda: bool(rig.stuck))
            ((_, _, reason),) = rig.stuck
            assert reason.startswith(
                "broke tasks 3 times in a row, the last: does not take our key"
            )
            rig.close()

    drive(scenario())


# -- bugs of our own -------------------------------------------------------------------------------


class Faulty(LlamaCpp):
    """An adapter with a bug."""

    def read_busy_slots(self, status: int, body: bytes) -> int:
        raise ValueError("a bug")


@pytest.mark.parametrize("is_reporting_faulty", [False, True])
def test_a_bug_in_watching_a_slot_loses_no_grant(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture, is_reporting_faulty: bool
) -> None:
    async def scenario() -> None:
        rig = Rig(adapters={"llamacpp": Faulty()})
        async with FakeEngine(hangs("a"), tells("b")) as engine, rig:
            if is_reporting_faulty:
                rig.fail_to_report = ValueError("another bug")
            rig.open(engine.endpoint, slots=1)
            entry, behind = rig.submit(), rig.submit()
            await rig.listen(entry).until_tokens(1)
            rig.service.cancel(entry)
            if not is_reporting_faulty:
                await until(lambda: bool(rig.stuck))
                reason = "could not be watched: a bug in orchd"
                assert rig.stuck == [("chat", "r0", reason)]
                rig.close()
                rig.open(engine.endpoint, slots=1)
            assert isinstance((await rig.story(behind))[-1], Ended)
            await rig.until_free()

    drive(scenario())
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 + is_reporting_faulty
    assert all(r.exc_info and "failed inside the daemon" in r.message for r in errors)


# -- whom a closing concerns -----------------------------------------------------------------------


def test_closing_tells_of_the_tasks_that_run_and_of_those_just_failed(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def dies_later(call: Call) -> None:
            call.accept()
            await gate.wait()

        async with (
            FakeEngine(dies_later, hangs("b"), hangs("c"), tells("d")) as engine,
            Rig() as rig,
        ):
            rig.open(engine.endpoint, slots=4)
            broken, cancelled, running, ended = (rig.submit_batch() for _ in range(4))
            await rig.story(ended)
            for entry in (cancelled, running):
                await rig.listen(entry).until_tokens(1)
            engine.lingering = 1
            rig.service.cancel(cancelled)
            gate.set()
            await until(lambda: broken.task.state is State.QUEUED)
            waiting = rig.submit_batch()
            assert rig.close() == (broken.task.spec.task_id, running.task.spec.task_id)
            assert waiting.task.state is State.QUEUED
            rig.open(engine.endpoint)
            rig.service.cancel(broken)
            rig.service.cancel(waiting)

    drive(scenario())

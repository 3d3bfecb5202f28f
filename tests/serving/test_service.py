"""A task's way through the service, with an engine that behaves."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import uuid
import weakref
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import pytest

from orchd.api import wire
from orchd.config.model import Config, PoolConfig
from orchd.engines.adapter import ChatTurn, EngineRequest, Generation
from orchd.engines.llamacpp import LlamaCpp
from orchd.engines.registry import ADAPTERS
from orchd.errors import Code
from orchd.serving.entry import Entry, Reader
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.service import Service
from orchd.serving.task import (
    Admitted,
    Ended,
    Failed,
    Priority,
    Rejected,
    Started,
    State,
    TaskEvent,
    Token,
)
from orchd.serving.world import Outage, Runner
from tests.conftest import Drive
from tests.fakes.engine import Call, FakeEngine, Script, dies, event, hangs, refuses, tells, waits
from tests.serving.rig import NEVER_S, PROMPT, Rig, fails, states
from tests.serving.samples import make_pool

CHAT = Generation(messages=(ChatTurn("user", "Hello"),))
POOL = make_pool()
RUNNER = Runner(
    lambda pool_id: Outage("", None),
    lambda replica_id: 0,
    lambda pool_id: POOL,
    lambda *report: None,
)
ID = "123e4567-e89b-12d3-a456-426614174000"


def test_the_log_is_what_the_contract_shows(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        config = Config(pools=(POOL,))
        service = Service(config, ADAPTERS, wire.encode_event, RUNNER)
        async with FakeEngine(tells("Hel", "lo")) as engine:
            service.open_slots(POOL, engine.endpoint)
            outcome = service.submit(TaskRequest(PROMPT, task_id=ID))
            assert outcome == Admitted(ID, 0, 0, 0)
            entry = service.find(ID)
            assert entry is not None
            ended = asyncio.Event()
            reader = service.open_reader(entry, 0)
            reader.attach(lambda: ended.set() if entry.task.has_ended else None)
            await ended.wait()
        assert reader.pull(10**6).decode() == (
            'id: 0\nevent: started\ndata: {"queue_position":0,"predicted_start_ms":0}\n\n'
            'id: 1\nevent: token\ndata: {"t":"Hel","i":0}\n\n'
            'id: 2\nevent: token\ndata: {"t":"lo","i":1}\n\n'
            'id: 3\nevent: end\ndata: {"tokens_in":5,"tokens_out":2,"decode_ms":23,'
            '"finish_reason":"stop"}\n\n'
        )
        assert reader.is_finished
        reader.detach()
        service.stop_admission()
        await service.end_tasks()

    drive(scenario())


@pytest.mark.parametrize("generation", [PROMPT, CHAT])
def test_tokens_are_counted_by_the_engines_figures(
    drive: Drive[Any], generation: Generation
) -> None:
    async def scenario() -> None:
        script = tells("a", "b c d", tokens_in=33, tokens_out=7, by="limit")
        async with FakeEngine(script) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            story = await rig.story(rig.submit(generation))
        assert story == [
            Started(0, 0),
            Token("a", 0),
            Token("b c d", 1),
            Ended(33, 7, 23, "length"),
        ]

    drive(scenario())


def test_an_engine_without_figures_is_counted_by_ours(drive: Drive[Any]) -> None:
    async def script(call: Call) -> None:
        call.accept()
        call.say("a", "b")
        call.stream(event({"content": "", "stop": True}))

    async def scenario() -> None:
        async with FakeEngine(script) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            end = (await rig.story(rig.submit()))[-1]
        assert isinstance(end, Ended)
        assert (end.tokens_in, end.tokens_out, end.finish_reason) == (0, 2, "stop")

    drive(scenario())


def test_tokens_that_come_in_one_bunch_are_told_one_by_one(drive: Drive[Any]) -> None:
    async def script(call: Call) -> None:
        call.accept()
        call.stream(b":\n\n" + call.token("a") + call.token("🦙") + call.token("") + call.last())
        call.send(b"0\r\n\r\n")

    async def scenario() -> None:
        async with FakeEngine(script) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            story = await rig.story(rig.submit())
        assert story[1:-1] == [Token("a", 0), Token("🦙", 1)]

    drive(scenario())


def test_the_last_word_ends_a_task_even_if_the_engine_hangs_after_it(drive: Drive[Any]) -> None:
    async def script(call: Call) -> None:
        call.accept()
        call.stream(call.token("a") + call.last())
        await call.is_left.wait()

    async def scenario() -> None:
        async with FakeEngine(script) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            assert isinstance((await rig.story(rig.submit()))[-1], Ended)
            await rig.until_free()

    drive(scenario())


# -- slots and admission ---------------------------------------------------------------------------


def test_four_run_at_once_and_the_fifth_waits(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with FakeEngine(waits(gate, "a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entries = [rig.submit() for _ in range(5)]
            await engine.wait_for_calls(4)
            assert states(*entries)[4] is State.QUEUED
            assert (rig.busy(), entries[4].describe_wait()) == (4, "waiting in the queue")
            assert rig.service.queue_depths("chat") == {"interactive": 1, "batch": 0}
            listening = rig.listen(entries[0])
            await listening.until(lambda it: bool(it.events))
            assert entries[0].describe_wait() == "the engine is reading the prompt"
            gate.set()
            stories = [await rig.story(entry) for entry in entries]
            await rig.until_free()
            listening.leave()
        assert all(isinstance(story[-1], Ended) for story in stories)
        assert [story[0] for story in stories] == [Started(0, 0)] * 4 + [Started(0, None)]
        assert len(engine.calls) == 5

    drive(scenario())


def test_what_202_says(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        pool = make_pool(interactive=2, batch=2)
        async with FakeEngine(waits(gate)) as engine, Rig(pool) as rig:
            rig.open(engine.endpoint, slots=2)

            def submit(priority: Priority) -> Admitted:
                outcome = rig.service.submit(TaskRequest(PROMPT, priority))
                assert isinstance(outcome, Admitted)
                return outcome

            running = [submit(Priority.BATCH) for _ in range(2)]
            assert {(a.queue_position, a.predicted_start_ms, a.backoff_ms) for a in running} == {
                (0, 0, 0)
            }
            rig.service._pools["chat"].core._pace.observe(3.0)
            first, second = submit(Priority.BATCH), submit(Priority.INTERACTIVE)
            assert (first.queue_position, first.predicted_start_ms) == (0, 1500)
            assert (second.queue_position, second.predicted_start_ms) == (0, 1500)
            third, last = submit(Priority.INTERACTIVE), submit(Priority.BATCH)
            assert (third.queue_position, third.predicted_start_ms) == (1, 3000)
            assert (last.queue_position, last.predicted_start_ms) == (3, 6000)
            # Full after this one: the next of its priority had better wait.
            assert [a.backoff_ms for a in (first, second, third, last)] == [0, 0, 1500, 4500]

    drive(scenario())


def test_a_task_without_an_id_is_given_a_random_uuid(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        pool = make_pool(interactive=100)
        async with FakeEngine(waits(asyncio.Event())) as engine, Rig(pool) as rig:
            rig.open(engine.endpoint, slots=1)
            ids = [rig.submit().task.spec.task_id for _ in range(50)]
            # Of any other variant the version would be None.
            assert {uuid.UUID(given).version for given in ids} == {4}
            assert all(str(uuid.UUID(given)) == given for given in ids)
            # All but six of its bits are drawn, so each digit but one is another one some time.
            assert [len(set(digits)) for digits in zip(*ids, strict=True)].count(1) == 5

    drive(scenario())


def test_a_full_queue_refuses_with_the_measured_backoff_and_no_trace(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        pool = make_pool(interactive=1, batch=1)
        async with FakeEngine(hangs()) as engine, Rig(pool) as rig:
            rig.open(engine.endpoint, slots=1)
            for _ in range(2):
                rig.submit()
            rejected = rig.refuse(task_id=ID)
            assert (rejected.code, rejected.backoff_s) == (Code.ADMISSION_REJECT, 1.0)
            assert rejected.message == (
                "pool chat: 1 interactive tasks wait already, which is the bound"
            )
            assert rig.service.find(ID) is None
            rig.service._pools["chat"].core._pace.observe(0.0004)
            backoff_s = rig.refuse().backoff_s
            assert backoff_s is not None and backoff_s >= 0.0004
            admitted = rig.service.submit(TaskRequest(PROMPT, Priority.BATCH))
            assert isinstance(admitted, Admitted)
            assert admitted.backoff_ms >= 1, "0 would say that there is room"

    drive(scenario())


def test_the_ways_to_be_refused(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a")) as engine, Rig() as rig:
            rejected = rig.refuse()
            assert (rejected.code, rejected.message) == (
                Code.POOL_UNAVAILABLE,
                "pool chat: loading 3 s",
            )
            assert rejected.backoff_s == 1.0
            rig.outage = Outage("crashed; tries again in 8 s", 8.0)
            assert rig.refuse().backoff_s == 8.0
            rig.open(engine.endpoint)
            assert rig.refuse(pool_id="nope").code is Code.INVALID_PARAMS
            entry = rig.submit(task_id=ID)
            assert rig.refuse(task_id=ID).code is Code.CONFLICT
            await rig.story(entry)
            assert rig.refuse(task_id=ID).code is Code.CONFLICT, "known until it is forgotten"
            rig.service.stop_admission()
            assert rig.refuse().message == "the daemon is stopping"

    drive(scenario())


# -- readers ---------------------------------------------------------------------------------------


def test_readers_early_late_twice_and_from_a_cursor_get_the_same(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with FakeEngine(waits(gate, "a", "b", "c")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            early = [rig.listen(entry), rig.listen(entry)]
            gate.set()
            await early[0].until_tokens(1)
            middle, behind = rig.listen(entry), rig.listen(entry, cursor=2)
            story = await middle.to_the_end()
            assert [await reader.to_the_end() for reader in early] == [story, story]
            assert await behind.to_the_end() == story[2:]
            assert await rig.story(entry) == story
            for cursor in range(len(story) + 1):
                assert await rig.listen(entry, cursor).to_the_end() == story[cursor:]
            with pytest.raises(AssertionError):
                rig.service.open_reader(entry, len(story) + 1)
            assert not entry.has_readers
            assert [getattr(e, "text", None) for e in story] == [None, "a", "b", "c", None]

    drive(scenario())


def test_a_reader_may_leave_when_it_is_woken(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a", "b")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            readers = [rig.service.open_reader(entry, 0) for _ in range(3)]
            for reader in readers:
                reader.attach(reader.detach)
            assert isinstance((await rig.story(entry))[-1], Ended)
            assert not entry.has_readers

    drive(scenario())


def test_readers_that_share_a_wake_leave_each_by_itself(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs()) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry, woken = rig.submit(), asyncio.Event()
            one, other = (Reader(entry, 0, lambda: None) for _ in range(2))
            for reader in (one, other):
                reader.attach(woken.set)
            one.detach()
            one.detach()
            assert entry.has_readers
            other.detach()
            assert not entry.has_readers

    drive(scenario())


# -- nobody reads ----------------------------------------------------------------------------------


def is_error(event: TaskEvent) -> bool:
    return isinstance(event, Failed)


def test_an_interactive_task_that_nobody_streams_is_cancelled(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        ended = asyncio.Event()
        rig = Rig(abandon_after_s=0.02, on_encode=lambda e: ended.set() if is_error(e) else None)
        async with FakeEngine(hangs("a")) as engine, rig:
            rig.open(engine.endpoint, slots=1)
            batch = rig.submit_batch()
            queued = rig.submit()
            await ended.wait()
            (error,) = rig.logged(queued)
            assert isinstance(error, Failed)
            assert (error.code, error.message) == (
                Code.CANCELLED,
                "nobody streamed it for 0.02 s",
            )
            assert not batch.task.has_ended
            assert not has_clock(rig, batch)

    drive(scenario())


def has_clock(rig: Rig, entry: Entry) -> bool:
    return entry in rig.service._abandonment._clocks


def test_a_reader_stops_the_clock_and_its_leaving_starts_it(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            clock = rig.service._abandonment._clocks[entry]
            one, other = rig.listen(entry), rig.listen(entry)
            assert clock.cancelled() and not has_clock(rig, entry)
            one.leave()
            assert not has_clock(rig, entry)
            other.leave()
            assert has_clock(rig, entry)
            back = rig.listen(entry)
            assert not has_clock(rig, entry)
            back.leave()
            rig.service.cancel(entry)
            assert not has_clock(rig, entry)
            rig.listen(entry).leave()
            assert not has_clock(rig, entry), "an ended task has no clock"

    drive(scenario())


# -- after the end ---------------------------------------------------------------------------------


def test_an_ended_task_is_forgotten_in_time_and_a_reader_keeps_its_own(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a")) as engine, Rig(retain_s=0.02) as rig:
            rig.open(engine.endpoint)
            entry = rig.submit(task_id=ID)
            reader = rig.service.open_reader(entry, 0)
            await rig.story(entry)
            assert rig.service.find(ID) is entry
            await rig.until_forgotten(ID)
            assert len(rig.decode(reader.pull(10**6))) == 3
            assert reader.is_finished
            rig.submit(task_id=ID)

    drive(scenario())


async def garble(call: Call) -> None:
    call.accept()
    call.stream(b"data: {\n\n")


@pytest.mark.parametrize(
    ("script", "is_cancelled"),
    [
        pytest.param(tells("a"), False, id="ends"),
        pytest.param(hangs("a"), True, id="cancelled"),
        pytest.param(dies("a"), False, id="breaks"),
        pytest.param(dies(), False, id="breaks twice"),
        pytest.param(refuses(400), False, id="refused"),
        pytest.param(refuses(500), False, id="fails"),
        pytest.param(garble, False, id="garbage"),
        pytest.param(hangs("a"), False, id="stalls"),
    ],
)
def test_nothing_holds_a_task_that_was_forgotten(
    drive: Drive[Any], script: Script, is_cancelled: bool
) -> None:
    """No circle either: logs would wait for the collector, which seldom comes to old objects."""

    async def scenario() -> None:
        # Where a task does not end by itself, it stalls.
        pool = dataclasses.replace(make_pool(), decode_stall_s=NEVER_S if is_cancelled else 0.1)
        rig = Rig(pool, retain_s=0.001, settle_s=0.001)
        async with FakeEngine(script) as engine, rig:
            rig.open(engine.endpoint)
            entry = rig.submit(task_id=ID)
            kept = weakref.ref(entry.log)
            if is_cancelled:
                listening = rig.listen(entry)
                await listening.until_tokens(1)
                listening.leave()
                del listening
                rig.service.cancel(entry)
            await rig.story(entry)
            del entry
            await rig.until_free()
            await rig.until_forgotten(ID)
            for _ in range(10):
                await asyncio.sleep(0)
            assert kept() is None, gc.get_referrers(kept())

    gc.collect()
    gc.disable()
    try:
        drive(scenario())
    finally:
        gc.enable()


# -- the end of the daemon -------------------------------------------------------------------------


def test_a_stop_ends_what_waits_and_lets_the_rest_finish(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with FakeEngine(waits(gate, "a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=1)
            running, waiting, batch = rig.submit(), rig.submit(), rig.submit_batch()
            await engine.wait_for_calls(1)
            rig.service.stop_admission()
            for entry in (waiting, batch):
                (error,) = rig.logged(entry)
                assert fails(error) == Code.POOL_UNAVAILABLE
            finishing = asyncio.ensure_future(rig.service.finish_tasks(60))
            gate.set()
            await finishing
            assert isinstance(rig.logged(running)[-1], Ended)
            await rig.service.end_tasks()

    drive(scenario())


def test_the_end_leaves_no_task_open_no_run_and_no_timer(drive: Drive[Any]) -> None:
    """The fixture fails where an asyncio task is left."""

    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint, slots=2)
            entries = [rig.submit(), rig.submit_batch(), rig.submit(), rig.submit_batch()]
            listening = rig.listen(entries[0])
            await listening.until_tokens(1)
            await rig.service.finish_tasks(0)
            await rig.service.end_tasks()
            for entry in entries:
                assert fails(rig.logged(entry)[-1]) == Code.POOL_UNAVAILABLE
                assert entry.grant is None
            assert (rig.service._runs, rig.service._abandonment._clocks) == ({}, {})
            timer = rig.service._register._timer
            assert timer is None or timer.cancelled()
            assert rig.busy() == 0
            for call in engine.calls:
                await call.is_left.wait()
            listening.leave()

    drive(scenario())


def test_an_impatient_stop_cuts_the_grace_short(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            finishing = asyncio.ensure_future(rig.service.finish_tasks(1000))
            await engine.wait_for_calls(1)
            finishing.cancel()
            await asyncio.wait([finishing])
            assert not entry.task.has_ended

    drive(scenario())


# -- what the log tells ----------------------------------------------------------------------------


def test_each_task_is_one_line_at_its_end(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        script = tells("a secret", tokens_in=33, tokens_out=7, by="limit")
        async with FakeEngine(script) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            await rig.story(rig.submit(task_id=ID))
            await rig.until_free()
            rig.close()
            rig.outage = Outage("crashed", 1.0)
            for _ in range(3):
                rig.refuse()

    with caplog.at_level(logging.INFO):
        drive(scenario())
    ended, *refused = caplog.messages
    assert ended.startswith(
        f"ended a task task={ID} pool=chat replica=r0 priority=interactive outcome=end"
        " finish=length waited_s="
    )
    assert ended.endswith("tokens_in=33 tokens_out=7 rate=304.3")
    assert refused == [
        "refused a task pool=chat code=POOL_UNAVAILABLE",
        "refused 2 tasks in the last 10 s pool=chat code=POOL_UNAVAILABLE",
    ]


def test_a_client_s_own_fault_is_no_line(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            rig.refuse(pool_id="nowhere")
            entry = rig.submit(task_id=ID)
            rig.refuse(task_id=ID)
            await rig.story(entry)

    with caplog.at_level(logging.INFO):
        drive(scenario())
    assert [message[:12] for message in caplog.messages] == ["ended a task"]


# -- a reload ----------------------------------------------------------------------------------


def test_a_retired_replica_is_idle_once_its_last_task_is_over(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        go_on = asyncio.Event()

        async def wait(call: Call) -> None:
            call.accept()
            call.say("old")
            await call.drain()
            await go_on.wait()
            call.finish()
            await call.drain()

        async with FakeEngine(wait) as old, FakeEngine(tells("new")) as new, Rig() as rig:
            rig.open(old.endpoint, slots=2)
            running = [rig.submit(), rig.submit()]
            await old.wait_for_calls(2)
            idle = rig.service.retire_slots("chat", "r0")
            rig.open(replace(new.endpoint, replica_id="r1"), slots=1)
            after = rig.submit()
            assert [type(e) for e in await rig.story(after)] == [Started, Token, Ended]
            assert (len(old.calls), len(new.calls), idle.done()) == (2, 1, False)
            rig.service.cancel(running[0])
            go_on.set()
            await idle
            assert [type(e) for e in await rig.story(running[1])] == [Started, Token, Ended]
            assert rig.busy("r0") == 0
            rig.close("r0")

    drive(scenario())


def test_a_retired_replica_without_a_task_is_idle_at_once(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            assert rig.service.retire_slots("chat", "r0").done()
            assert isinstance(rig.refuse(), Rejected)

    drive(scenario())


def test_a_replica_without_a_task_once_before_is_not_idle_when_it_is_retired(
    drive: Drive[Any],
) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a"), hangs("b")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            await rig.story(rig.submit())
            await rig.until_free()
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            idle = rig.service.retire_slots("chat", "r0")
            assert not idle.done()
            rig.service.cancel(entry)
            await idle

    drive(scenario())


class NamesItsModel(LlamaCpp):
    """An engine that wants to be told which model is meant, as many do."""

    def generation_request(self, pool: PoolConfig, generation: Generation) -> EngineRequest:
        request = super().generation_request(pool, generation)
        return replace(request, path=f"/{PurePath(pool.model).name}")


def test_each_replica_is_asked_for_the_model_that_it_has(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        rig = Rig(adapters={"llamacpp": NamesItsModel()})
        async with FakeEngine(tells("a")) as engine, rig:
            rig.pool = replace(rig.pool, model="/models/other.gguf")
            rig.open(engine.endpoint)
            await rig.story(rig.submit())
            assert engine.calls[0].path == "/other.gguf"

    drive(scenario())


def test_a_retired_replica_that_dies_is_idle_and_its_task_runs_elsewhere(
    drive: Drive[Any],
) -> None:
    async def scenario() -> None:
        die = asyncio.Event()

        async def hang_up(call: Call) -> None:
            call.accept()
            await die.wait()
            call.reset()

        async with FakeEngine(hang_up) as old, FakeEngine(tells("new")) as new, Rig() as rig:
            rig.open(old.endpoint)
            entry = rig.submit()
            await old.wait_for_calls(1)
            idle = rig.service.retire_slots("chat", "r0")
            rig.open(replace(new.endpoint, replica_id="r1"))
            die.set()
            assert [type(e) for e in await rig.story(entry)] == [Started, Token, Ended]
            assert len(new.calls) == 1 and not idle.done(), "it may be at work on it still"
            assert rig.close("r0") == (entry.task.spec.task_id,)
            await idle

    drive(scenario())


def test_a_retired_replica_is_idle_once_a_task_that_was_cut_short_is_dropped(
    drive: Drive[Any],
) -> None:
    """Not before: an engine that is stopped at work would count as one that hangs."""

    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            idle = rig.service.retire_slots("chat", "r0")
            engine.lingering = 1
            rig.service.cancel(entry)
            asked = engine.slots_asked
            while engine.slots_asked < asked + 2:  # noqa: ASYNC110, nothing tells of it
                await asyncio.sleep(0.002)
            assert not idle.done() and rig.busy() == 1
            engine.lingering = 0
            await idle
            assert rig.busy() == 0

    drive(scenario())


def test_a_retired_replica_that_hangs_is_reported_and_idle_once_it_is_closed(
    drive: Drive[Any],
) -> None:
    async def scenario() -> None:
        rig = Rig(free_within_s=0.01)
        async with FakeEngine(hangs("a")) as engine, rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            idle = rig.service.retire_slots("chat", "r0")
            engine.lingering = 1
            rig.service.cancel(entry)
            while not rig.stuck:  # noqa: ASYNC110, nothing tells of it
                await asyncio.sleep(0.002)
            assert not idle.done()
            rig.close("r0")
            await idle

    drive(scenario())


def test_who_waits_no_more_for_a_retired_replica_disturbs_nothing(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with FakeEngine(hangs("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            entry = rig.submit()
            await rig.listen(entry).until_tokens(1)
            rig.service.retire_slots("chat", "r0").cancel()
            rig.service.cancel(entry)
            await rig.until_free()
            rig.close("r0")

    drive(scenario())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_a_task_goes_by_the_active_models_name(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with FakeEngine(tells("a")) as engine, Rig() as rig:
            rig.open(engine.endpoint)
            rig.pool = replace(rig.pool, model="/models/other.gguf")
            assert rig.refuse(model_ref="a.gguf").code == Code.INVALID_PARAMS
            await rig.story(rig.submit(model_ref="other.gguf"))

    drive(scenario())

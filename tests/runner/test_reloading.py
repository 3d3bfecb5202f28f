"""A reload of one pool on the fake engine: forth, and back from wherever it fails."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Endpoint
from orchd.reload_outcome import ReloadBusy, Reloaded, ReloadFailed, ReloadOutcome, Strategy
from orchd.runner.lifecycle import State
from orchd.runner.snapshot import NoReading, Reading
from tests.conftest import Drive
from tests.fakes.engines import install_engine, list_children, write_model
from tests.fakes.nvml import FakeNvml, card, uuid_of
from tests.runner.pools import make_pool
from tests.runner.stage import PATIENT, QUICK, Stage, staged, until


@pytest.fixture
def other(tmp_path: Path) -> str:
    """Another model than the stage's own."""
    (tmp_path / "other").mkdir()
    return str(write_model(tmp_path / "other"))


class Hold:
    """Keeps whoever begins to load at that, from ``begin`` to ``end``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begin, self.end = path.touch, path.unlink

    def pool(self, folder: Path, replicas: int) -> PoolConfig:
        """A pool on the CPU that can be held."""
        return make_pool(
            model=write_model(folder),
            binary=install_engine(folder),
            replicas=replicas,
            vram_mib=1,
            env={"FAKE_LOADS_WHILE": str(self.path)},
        )


@pytest.fixture
def hold(tmp_path: Path) -> Hold:
    return Hold(tmp_path / "hold")


def gpu_pool(nvml: FakeNvml, hold: Hold, lag_ms: int = 0, **more: Any) -> PoolConfig:
    """A pool whose replicas need 5000 MiB of a card."""
    folder = nvml.folder.parent
    told = nvml.engine_faults(4500, lag_ms) | {"loads_while": hold.path}
    return make_pool(
        model=write_model(folder),
        binary=install_engine(folder),
        devices=("auto",),
        vram_mib=5000,
        env={f"FAKE_{name.upper()}": str(value) for name, value in told.items()},
        **more,
    )


@pytest.fixture
def nvml(tmp_path: Path) -> FakeNvml:
    """One card of 8 GiB: room for one replica."""
    return FakeNvml(tmp_path / "machine", [card(0, 8)])


def pids(stage: Stage, model: str | None = None) -> list[int]:
    """Of the engines that run, of that model."""
    return [s.pid for s in stage.statuses() if s.pid is not None and model in (None, s.model)]


def succeeded(outcome: ReloadOutcome) -> Reloaded:
    assert isinstance(outcome, Reloaded), outcome
    return outcome


def failed(outcome: ReloadOutcome) -> str:
    assert isinstance(outcome, ReloadFailed), outcome
    return outcome.message


def put_away(model: str) -> None:
    Path(model).rename(f"{model}.away")


def put_back(model: str) -> None:
    Path(f"{model}.away").rename(model)


def lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def lacks(stage: Stage, pool_id: str, words: str) -> None:
    """Until the pool says in such words why it has no room."""
    await until(lambda: words in (stage.supervisor.statuses(pool_id)[0].reason or ""))


async def until_loading(stage: Stage, count: int = 1, pool_id: str = "chat") -> list[int]:
    """The pids of so many engines that are being loaded."""

    def loading() -> list[int]:
        statuses = stage.supervisor.statuses(pool_id)
        return [s.pid for s in statuses if s.state is State.LOADING and s.pid is not None]

    await until(lambda: len(loading()) == count)
    return loading()


# -- side by side ------------------------------------------------------------------------------


def test_the_new_model_serves_and_the_old_one_is_gone(
    drive: Drive[None], tmp_path: Path, other: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            (old,) = pids(stage)
            outcome = succeeded(await stage.supervisor.reload("chat", other))
            assert outcome.strategy is Strategy.SIDE_BY_SIDE
            assert (outcome.pool_id, outcome.model_ref) == ("chat", other)
            assert outcome.previous_model_ref == stage.pool.model
            assert outcome.took_ms > 0
            assert stage.serving == [other]
            assert (stage.only.replica_id, stage.only.model) == ("chat-1", other)
            assert not lives(old)
            status = stage.status
            assert (status.config.model, status.retired) == (other, (stage.pool.model,))
            assert (status.reload, status.incidents) == (None, ())
            assert stage.supervisor.config("chat").model == other
            back = succeeded(await stage.supervisor.reload("chat", stage.pool.model))
            assert (stage.only.replica_id, back.previous_model_ref) == ("chat-0", other)

    drive(scenario())
    said = [record.getMessage() for record in caplog.records]
    lasting = [line for line in said if line.startswith("a reload does not outlive the daemon")]
    assert lasting == [
        f"a reload does not outlive the daemon: its next start serves {tmp_path}/model.gguf"
        " pool=chat"
    ]


def test_the_old_one_serves_until_each_new_replica_has_proven_itself(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    pool = hold.pool(tmp_path, replicas=2)

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool) as stage:
            await until(lambda: len(stage.open) == 2)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            await until_loading(stage, 2)
            assert sorted(stage.open) == ["chat-0", "chat-1"] and not stage.retired
            assert [s.is_active for s in stage.statuses()] == [True, True, False, False]
            status = stage.status.reload
            assert status is not None and status.strategy is Strategy.SIDE_BY_SIDE
            assert "beside the old one" in status.step
            hold.end()
            succeeded(await answer)
            assert sorted(stage.open) == ["chat-2", "chat-3"]

    drive(scenario())


def test_the_old_one_finishes_its_tasks_before_it_goes(
    drive: Drive[None], tmp_path: Path, other: str
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            stage.is_busy = True
            answer = stage.supervisor.reload("chat", other)
            await until(lambda: stage.serving == [other])
            assert list(stage.retired) == ["chat-0"]
            assert [s.state for s in stage.statuses()] == [State.READY, State.READY]
            assert [s.is_active for s in stage.statuses()] == [True, False]
            assert stage.status.config.model == other
            assert not answer.done()
            busy = await stage.supervisor.reload("chat", None)
            assert isinstance(busy, ReloadBusy) and "finish its tasks" in busy.message
            stage.finish_tasks()
            succeeded(await answer)

    drive(scenario())


def test_an_old_one_that_dies_at_its_last_tasks_does_not_come_back(
    drive: Drive[None], tmp_path: Path, other: str
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            (old,) = pids(stage)
            stage.is_busy = True
            answer = stage.supervisor.reload("chat", other)
            await until(lambda: bool(stage.retired))
            os.kill(old, signal.SIGKILL)
            await until(lambda: "chat-0" not in stage.open)
            assert [s.state for s in stage.statuses()] == [State.READY, State.DOWN]
            assert not answer.done(), "its tasks have still to hear of it"
            stage.finish_tasks()
            succeeded(await answer)
            assert stage.opened == 2
            (death,) = stage.status.incidents
            assert (death.replica_id, death.pid) == ("chat-0", old)

    drive(scenario())


def test_a_pool_that_serves_nothing_is_mended_by_a_reload(
    drive: Drive[None], tmp_path: Path, other: str
) -> None:
    pool = make_pool(model=tmp_path / "gone.gguf", binary=install_engine(tmp_path))

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool) as stage:
            await stage.reach(State.BACKOFF)
            succeeded(await stage.supervisor.reload("chat", other))
            assert stage.serving == [other]
            assert stage.only.state is State.READY

    drive(scenario())


def test_an_old_one_in_backoff_gives_way(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    async def scenario() -> None:
        async with staged(
            tmp_path, PATIENT, pool=gpu_pool(nvml, hold), read_gpus=nvml.read
        ) as stage:
            await stage.reach(State.READY)
            stage.kill_engine()
            await stage.reach(State.BACKOFF)
            assert succeeded(await stage.supervisor.reload("chat", None)).strategy is (
                Strategy.SIDE_BY_SIDE
            )

    drive(scenario())


# -- in place ----------------------------------------------------------------------------------


def test_without_room_for_both_the_old_one_goes_first(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            (old,) = pids(stage)
            stage.is_busy = True
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            await until(lambda: bool(stage.retired))
            assert stage.is_held() and not answer.done()
            assert pids(stage) == [old], "it finishes what it has first"
            status = stage.status.reload
            assert status is not None and status.strategy is Strategy.IN_PLACE
            assert "a reload to" in stage.supervisor.explain("chat")
            stage.finish_tasks()
            (new,) = await until_loading(stage)
            assert new != old and not lives(old)
            assert stage.is_held() and stage.open == {}
            hold.end()
            assert succeeded(await answer).strategy is Strategy.IN_PLACE
            assert not stage.is_held()
            assert pids(stage) == [new]
            assert stage.status.retired == ()

    drive(scenario())


@pytest.mark.parametrize("lag_ms", [0, 400])
def test_the_memory_of_the_old_one_is_waited_for(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold, lag_ms: int
) -> None:
    pool = gpu_pool(nvml, hold, lag_ms)

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            outcome = succeeded(await stage.supervisor.reload("chat", None))
            assert outcome.strategy is Strategy.IN_PLACE
            assert stage.opened == 2 and stage.status.incidents == ()

    drive(scenario())


def test_room_that_another_takes_first_is_looked_for_again_in_place(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    """The plan saw room beside the old one; when the new one is placed it is gone."""
    nvml = FakeNvml(tmp_path / "machine", [card(0, 12)])
    seen: list[Strategy] = []
    stages: list[Stage] = []

    def read() -> Reading | NoReading:
        for stage in stages:
            if (reload := stage.status.reload) is not None and reload.strategy is not None:
                seen.append(reload.strategy)
                nvml.change(0, used_mib=4000)
        return nvml.read()

    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=read) as stage:
            await stage.reach(State.READY)
            stages.append(stage)
            outcome = succeeded(await stage.supervisor.reload("chat", None))
            assert seen[0] is Strategy.SIDE_BY_SIDE
            assert outcome.strategy is Strategy.IN_PLACE
            assert stage.opened == 2

    drive(scenario())


def test_the_room_that_it_makes_is_kept_for_the_old_one_too(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold, other: str
) -> None:
    """The new model needs less than the old one, which may have to come back."""
    pool = gpu_pool(nvml, hold)
    greedy = replace(pool, id="greedy", vram_mib=6000)
    nvml.change(0, used_mib=2900)

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, others=(greedy,), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            hold.begin()
            answer = stage.supervisor.reload("chat", other)
            (new,) = await until_loading(stage)
            await lacks(stage, "greedy", "the reload of chat")
            os.kill(new, signal.SIGKILL)
            hold.end()
            assert f"the old model {pool.model} is back" in failed(await answer)
            await lacks(stage, "greedy", "reserved by chat-0")

    drive(scenario())


def test_an_old_one_that_loads_still_gives_way_in_place(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    async def scenario() -> None:
        hold.begin()
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            (old,) = await until_loading(stage)
            answer = stage.supervisor.reload("chat", None)
            await until(lambda: bool(pids(stage)) and old not in pids(stage))
            hold.end()
            assert succeeded(await answer).strategy is Strategy.IN_PLACE
            assert stage.opened == 1

    drive(scenario())


def test_memory_that_is_still_coming_back_is_waited_for(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    """That of the model before the last, when one reload follows another at once."""
    nvml = FakeNvml(tmp_path / "machine", [card(0, 12)])
    pool = gpu_pool(nvml, hold, lag_ms=400)

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            for _ in range(2):
                outcome = succeeded(await stage.supervisor.reload("chat", None))
                assert outcome.strategy is Strategy.SIDE_BY_SIDE

    drive(scenario())


def test_what_a_new_one_that_gave_way_had_is_room_again(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    """One of two has loaded when the room of the other is gone: both go in place of the old."""
    nvml = FakeNvml(tmp_path / "machine", [card(0, 20)])
    pool = gpu_pool(nvml, hold, lag_ms=400, replicas=2)

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: len(stage.open) == 2)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            await until_loading(stage)
            nvml.change(0, used_mib=6500)
            hold.end()
            outcome = succeeded(await answer)
            assert outcome.strategy is Strategy.IN_PLACE
            assert len(stage.serving) == 2

    drive(scenario())


def test_in_place_on_two_pools_of_one_card_at_once(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 12)])
    pool = gpu_pool(nvml, hold, lag_ms=200)
    beside = replace(pool, id="beside")

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, others=(beside,), read_gpus=nvml.read) as stage:
            await until(lambda: len(stage.open) == 2)
            both = [stage.supervisor.reload(name, None) for name in ("chat", "beside")]
            for answer in both:
                assert succeeded(await answer).strategy is Strategy.IN_PLACE
            assert sorted(stage.open) == ["beside-1", "chat-1"]

    drive(scenario())


# -- back --------------------------------------------------------------------------------------


def test_a_model_that_cannot_be_read_touches_nothing(
    drive: Drive[None], tmp_path: Path, other: str
) -> None:
    (tmp_path / "garbage.gguf").write_bytes(b"not a model" * 100)

    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            running = pids(stage)
            for bad in (tmp_path / "gone.gguf", tmp_path, tmp_path / "garbage.gguf"):
                message = failed(await stage.supervisor.reload("chat", str(bad)))
                assert str(bad) in message
                assert message.endswith(f"; the old model {stage.pool.model} was not touched")
            assert (pids(stage), stage.serving) == (running, [stage.pool.model])
            assert (stage.status.retired, stage.opened) == ((), 1)

    drive(scenario())


def test_a_model_that_fits_nowhere_touches_nothing(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            nvml.change(0, used_mib=3500)
            message = failed(await stage.supervisor.reload("chat", None))
            assert "needs 4.9 GiB" in message and "was not touched" in message
            assert stage.opened == 1 and not stage.retired

    drive(scenario())


def test_a_new_one_that_dies_at_its_load_beside_the_old_one(
    drive: Drive[None], tmp_path: Path, other: str, hold: Hold
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, loads_while=hold.path) as stage:
            await stage.reach(State.READY)
            (old,) = pids(stage)
            hold.begin()
            answer = stage.supervisor.reload("chat", other)
            (new,) = await until_loading(stage)
            os.kill(new, signal.SIGKILL)
            message = failed(await answer)
            assert "replica chat-1: was ended by SIGKILL" in message
            assert message.endswith(f"; the old model {stage.pool.model} was not touched")
            assert (pids(stage), stage.serving) == ([old], [stage.pool.model])
            assert [death.replica_id for death in stage.status.incidents] == ["chat-1"]
            assert stage.status.retired == ()
            hold.end()
            succeeded(await stage.supervisor.reload("chat", other))

    drive(scenario())


def test_one_new_replica_that_fails_takes_the_others_down(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    pool = hold.pool(tmp_path, replicas=3)

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool) as stage:
            await until(lambda: len(stage.open) == 3)
            running = pids(stage)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            new = await until_loading(stage, 3)
            os.kill(new[1], signal.SIGKILL)
            assert "replica chat-4: was ended by SIGKILL" in failed(await answer)
            assert pids(stage) == running
            assert sorted(stage.open) == ["chat-0", "chat-1", "chat-2"]

    drive(scenario())


def test_a_new_one_that_dies_once_it_is_ready_and_others_are_not(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    """It has proven itself, and is not there for the switch."""
    pool = hold.pool(tmp_path, replicas=2)

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool) as stage:
            await until(lambda: len(stage.open) == 2)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            first, second = await until_loading(stage, 2)
            os.kill(second, signal.SIGSTOP)
            hold.end()
            await until(lambda: [s.state for s in stage.statuses()].count(State.READY) == 3)
            assert sorted(stage.open) == ["chat-0", "chat-1"]
            os.kill(first, signal.SIGKILL)
            os.kill(second, signal.SIGCONT)
            assert "replica chat-2: was ended by SIGKILL" in failed(await answer)
            assert sorted(stage.open) == ["chat-0", "chat-1"] and stage.opened == 2

    drive(scenario())


def test_a_new_one_that_dies_in_place_of_the_old_one_brings_that_back(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            (new,) = await until_loading(stage)
            os.kill(new, signal.SIGKILL)
            await until(lambda: new not in pids(stage))
            hold.end()
            message = failed(await answer)
            assert "replica chat-1: was ended by SIGKILL" in message
            assert message.endswith(f"; the old model {stage.pool.model} is back")
            assert (stage.serving, stage.is_held()) == ([stage.pool.model], False)
            assert (stage.only.replica_id, stage.only.state) == ("chat-0", State.READY)

    drive(scenario())


class WhenLogged(logging.Handler):
    """Does something in the moment in which the log is told such words."""

    def __init__(self, words: str, act: Callable[[], None]) -> None:
        super().__init__()
        self._words, self._act = words, act

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self._act()


def test_the_old_one_comes_back_at_once_where_room_that_was_made_is_gone(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold, other: str
) -> None:
    """It is not looked for again while nothing serves, though it would be found."""
    logger = logging.getLogger("orchd.runner.replica")
    handler = WhenLogged("could not start", lambda: nvml.change(0, used_mib=2900))

    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            succeeded(await stage.supervisor.reload("chat", other))
            nvml.change(0, used_mib=2900)
            stage.is_busy = True
            answer = stage.supervisor.reload("chat", stage.pool.model)
            await until(stage.is_held)
            nvml.change(0, used_mib=3300)
            stage.finish_tasks()
            message = failed(await answer)
            assert "needs 4.9 GiB" in message
            assert message.endswith(f"; the old model {other} is back")
            assert stage.serving == [other]

    logger.addHandler(handler)
    try:
        drive(scenario())
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("broken", ["hold", "retire_slots"])
def test_a_bug_before_the_switch_leaves_the_old_one_serving(
    drive: Drive[None],
    tmp_path: Path,
    nvml: FakeNvml,
    hold: Hold,
    caplog: pytest.LogCaptureFixture,
    broken: str,
) -> None:
    def fail(*_: str) -> None:
        raise RuntimeError("a bug of the gate")

    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            sound = getattr(stage, broken)
            setattr(stage, broken, fail)
            message = failed(await stage.supervisor.reload("chat", None))
            assert message == f"a bug in orchd; the old model {stage.pool.model} is back"
            assert stage.serving == [stage.pool.model] and not stage.is_held()
            stage.kill_engine()
            await until(lambda: stage.opened == 2)
            setattr(stage, broken, sound)
            succeeded(await stage.supervisor.reload("chat", None))

    drive(scenario())
    assert "a bug of the gate" in caplog.text


@pytest.mark.parametrize(("gib", "how"), [(12, "was not touched"), (8, "is back")])
def test_a_bug_in_the_switch_leaves_one_model(
    drive: Drive[None],
    tmp_path: Path,
    hold: Hold,
    other: str,
    caplog: pytest.LogCaptureFixture,
    gib: int,
    how: str,
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, gib, used_mib=2900 if gib == 8 else 0)])

    async def scenario() -> None:
        before = set(list_children())
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            sound = stage.open_slots

            def fail(config: PoolConfig, endpoint: Endpoint) -> None:
                if config.model == other:
                    raise RuntimeError("a bug of the gate")
                sound(config, endpoint)

            stage.open_slots = fail  # type: ignore[method-assign]
            old = f"the old model {stage.pool.model}"
            message = failed(await stage.supervisor.reload("chat", other))
            assert message == f"a bug in orchd; {old} {how}"
            assert stage.serving == [stage.pool.model] and not stage.retired
            assert len(pids(stage)) == 1 and len(set(list_children()) - before) == 1
            assert stage.only.state is State.READY and stage.status.retired == ()

    drive(scenario())
    assert "a bug of the gate" in caplog.text


def test_a_bug_after_the_switch_is_answered_too(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            stage.is_busy = True
            answer = stage.supervisor.reload("chat", None)
            await until(lambda: bool(stage.retired))
            stage.retired["chat-0"].set_exception(RuntimeError("a bug of the gate"))
            assert failed(await answer).startswith("a bug in orchd")
            assert stage.status.reload is None and stage.serving == [stage.pool.model]

    drive(scenario())
    assert "a bug of the gate" in caplog.text


def test_an_old_one_that_cannot_come_back_is_tried_again(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    """Its file goes while the new one loads."""

    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            (new,) = await until_loading(stage)
            put_away(stage.pool.model)
            os.kill(new, signal.SIGKILL)
            message = failed(await answer)
            assert "was ended by SIGKILL" in message
            assert "is not back yet and is tried again: replica chat-0: model" in message
            assert not stage.is_held()
            hold.end()
            put_back(stage.pool.model)
            await until(lambda: stage.serving == [stage.pool.model])

    drive(scenario())


def test_a_pool_that_comes_back_in_part_says_so(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 8), card(1, 8)])
    pool = gpu_pool(nvml, hold, replicas=2)

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: len(stage.open) == 2)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            await until_loading(stage, 2)
            nvml.change(1, handle_code=15)
            hold.end()
            message = failed(await answer)
            assert "is back but for what is tried again: replica chat-" in message
            assert len(stage.serving) == 1

    drive(scenario())


def test_a_stop_in_the_middle_is_the_answer(
    drive: Drive[None], tmp_path: Path, other: str, hold: Hold
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, loads_while=hold.path) as stage:
            await stage.reach(State.READY)
            hold.begin()
            answer = stage.supervisor.reload("chat", other)
            await until_loading(stage)
            await stage.supervisor.stop_reloads()
            assert failed(await answer) == "the daemon is stopping"
            assert stage.serving == [stage.pool.model]
            assert failed(await stage.supervisor.reload("chat", other)) == "the daemon is stopping"

    drive(scenario())


def test_a_stop_before_its_first_step_is_the_answer_too(
    drive: Drive[None], tmp_path: Path, other: str
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            answer = stage.supervisor.reload("chat", other)
            await stage.supervisor.stop_reloads()
            assert failed(await answer) == "the daemon is stopping"

    drive(scenario())


def test_a_stop_after_the_switch_finds_it_done(
    drive: Drive[None], tmp_path: Path, other: str
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            stage.is_busy = True
            answer = stage.supervisor.reload("chat", other)
            await until(lambda: bool(stage.retired))
            await stage.supervisor.stop_reloads()
            assert succeeded(await answer).model_ref == other

    drive(scenario())


def test_a_stop_while_the_pool_is_held_leaves_nothing(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            stage.is_busy = True
            answer = stage.supervisor.reload("chat", None)
            await until(lambda: bool(stage.retired))
            await stage.supervisor.stop_reloads()
            assert failed(await answer) == "the daemon is stopping"
            assert not stage.is_held()

    drive(scenario())


def test_the_end_of_all_replicas_is_that_of_a_reload(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            stage.is_busy = True
            answer = stage.supervisor.reload("chat", None)
            await until(lambda: bool(stage.retired))
        assert failed(await answer) == "the daemon is stopping"

    drive(scenario())


# -- one replica per device --------------------------------------------------------------------


def test_each_card_gets_its_new_replica_and_a_card_that_comes_meanwhile_too(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 12), card(1, 12)])
    pool = gpu_pool(nvml, hold, replicas="per-device")

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: len(stage.open) == 2)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            await until_loading(stage, 2)
            nvml.cards.append(card(2, 12))
            nvml.write()
            await until(lambda: len(stage.supervisor.snapshot.gpus) == 3)
            assert len(stage.statuses()) == 4, "the old model gets none there"
            hold.end()
            succeeded(await answer)
            await until(lambda: len(stage.open) == 3)
            devices = sorted(str(s.device) for s in stage.statuses())
            assert devices == [uuid_of(0), uuid_of(1), uuid_of(2)]
            assert len({s.replica_id for s in stage.statuses()}) == 3

    drive(scenario())


def test_a_pool_none_of_whose_devices_is_there_is_not_reloaded(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [])
    pool = gpu_pool(nvml, hold, replicas="per-device")

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: stage.statuses() != ())
            message = failed(await stage.supervisor.reload("chat", None))
            assert "none of the pool's devices is there" in message
            nvml.reason = "no NVIDIA driver is installed"
            assert nvml.reason in failed(await stage.supervisor.reload("chat", None))
            nvml.reason = None
            nvml.cards.append(card(0, 8))
            await stage.reach(State.READY)

    drive(scenario())


def test_a_card_that_is_lost_under_the_new_one_brings_the_old_one_through(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 8), card(1, 8)])

    async def scenario() -> None:
        async with staged(tmp_path, pool=gpu_pool(nvml, hold), read_gpus=nvml.read) as stage:
            await stage.reach(State.READY)
            hold.begin()
            answer = stage.supervisor.reload("chat", None)
            await until_loading(stage)
            (lost,) = [s.device for s in stage.statuses() if s.state is State.LOADING]
            place = [one.uuid for one in nvml.cards].index(str(lost))
            nvml.change(place, handle_code=15)
            assert f"its device {lost} has fallen off the bus" in failed(await answer)
            assert stage.only.state is State.READY and stage.opened == 1

    drive(scenario())


def test_a_card_that_is_out_of_service_anyway_stops_no_reload(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 12), card(1, 12)])
    pool = gpu_pool(nvml, hold, replicas="per-device")

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: len(stage.open) == 2)
            nvml.change(1, handle_code=15)
            await until(lambda: len(stage.open) == 1)
            succeeded(await stage.supervisor.reload("chat", None))
            assert len(stage.serving) == 1
            await until(lambda: len(stage.statuses()) == 2)
            assert len(stage.serving) == 1
            nvml.change(1, handle_code=0)
            await until(lambda: len(stage.serving) == 2)

    drive(scenario())


def test_a_pool_all_of_whose_cards_are_out_of_service_is_told_why_it_is_not_reloaded(
    drive: Drive[None], tmp_path: Path, nvml: FakeNvml, hold: Hold
) -> None:
    pool = gpu_pool(nvml, hold, replicas="per-device")

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: len(stage.open) == 1)
            nvml.change(0, handle_code=15)
            await until(lambda: stage.open == {})
            message = failed(await stage.supervisor.reload("chat", None))
            assert "GPU 0 (NVIDIA Card) has fallen off the bus" in message

    drive(scenario())


def test_a_serving_card_that_cannot_be_read_now_loses_no_replica_by_a_reload(
    drive: Drive[None], tmp_path: Path, hold: Hold
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 12), card(1, 12)])
    pool = gpu_pool(nvml, hold, replicas="per-device")

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, read_gpus=nvml.read) as stage:
            await until(lambda: len(stage.open) == 2)
            nvml.change(1, memory_code=999)
            message = failed(await stage.supervisor.reload("chat", None))
            assert "GPU 1 (NVIDIA Card) errs" in message and "was not touched" in message
            assert len(stage.serving) == 2

    drive(scenario())


# -- never in neither --------------------------------------------------------------------------


def test_many_reloads_good_and_bad_end_in_one_model_each(
    drive: Drive[None], tmp_path: Path, other: str
) -> None:
    async def scenario() -> None:
        async with staged(tmp_path, QUICK) as stage:
            await stage.reach(State.READY)
            models = [other, "/gone.gguf", stage.pool.model, None, other, other, "/gone.gguf"]
            outcomes: list[str] = []

            async def ask(n: int) -> None:
                outcome = await stage.supervisor.reload("chat", models[n % len(models)])
                outcomes.append(type(outcome).__name__)
                if isinstance(outcome, Reloaded):
                    assert stage.serving == [outcome.model_ref]

            for n in range(8):
                await ask(n)
                await asyncio.gather(*(ask(n + k) for k in range(3)))
            assert set(outcomes) == {"Reloaded", "ReloadFailed", "ReloadBusy"}
            assert stage.serving == [stage.supervisor.config("chat").model]
            assert len(stage.status.retired) == 1 and len(stage.statuses()) == 1

    drive(scenario())

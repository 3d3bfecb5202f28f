"""What befalls engines from outside: signals, and whatever can go wrong with their next load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random

from soaking.pools import HURT, Pool
from soaking.scene import Scene
from tests.fakes.llama_faults import model_faults

LOADS_S = 2.0
"""For so long loads go wrong once one has begun; then the next one is as it should be."""
LOAD_WAIT_S = 10.0
"""At most so long until one begins: whoever has failed before waits for its next try."""
LOOK_S = 0.1

LOAD_FAULTS: Mapping[str, Mapping[str, object]] = {
    "exits during its load": {"exit_at_load": "error: out of luck"},
    "exits in the midst of a line": {"exit_unended": "error: half a li"},
    "crashes during its load": {"crash_at_load": int(signal.SIGSEGV)},
    "never becomes healthy": {"never_healthy": 1},
    "never binds its port": {"never_binds": 1},
    "serves another model": {"model": "/another/model.gguf"},
    "takes any key": {"any_key": 1},
    "floods its log during its load": {"flood_at_load_bytes": 32 << 20},
    "breaks its first token": {"prompt": "[crash 0] "},
    "ignores SIGTERM": {"ignore_sigterm": 1},
}


def draw_pool(dice: Random, *, is_fake: bool = False) -> Pool:
    return dice.choice([pool for pool in HURT if pool.is_fake or not is_fake])


async def signal_one(scene: Scene, dice: Random, number: signal.Signals) -> None:
    """To the process itself, as anybody's kill does."""
    pool, place = draw_pool(dice), dice.random()
    pid = await scene.find_engine(pool, place)
    if _send(pid, number):
        scene.book.fault(f"engine gets {number.name}", f"{pool.pool_id} pid={pid}")


async def kill(scene: Scene, dice: Random) -> None:
    await signal_one(scene, dice, signal.SIGKILL)


async def abort(scene: Scene, dice: Random) -> None:
    await signal_one(scene, dice, signal.SIGABRT)


async def terminate(scene: Scene, dice: Random) -> None:
    await signal_one(scene, dice, signal.SIGTERM)


async def deafen(scene: Scene, dice: Random) -> None:
    """It accepts, and answers nobody any more."""
    pool, place = draw_pool(dice, is_fake=True), dice.random()
    pid = await scene.find_engine(pool, place)
    if _send(pid, signal.SIGUSR2):
        scene.book.fault("engine answers nobody any more", f"{pool.pool_id} pid={pid}")


async def stop_for_ever(scene: Scene, dice: Random) -> None:
    """It hangs, until somebody does something about it."""
    await signal_one(scene, dice, signal.SIGSTOP)


async def stop_for_a_while(scene: Scene, dice: Random) -> None:
    pool, place, span_s = draw_pool(dice), dice.random(), dice.uniform(0.05, 1.5)
    pid = await scene.find_engine(pool, place)
    if not _send(pid, signal.SIGSTOP):
        return
    scene.book.fault("engine is stopped for a while", f"{pool.pool_id} pid={pid} {span_s:.2f} s")
    try:
        await asyncio.sleep(span_s)
    finally:
        _send(pid, signal.SIGCONT)


def _send(pid: int | None, number: signal.Signals) -> bool:
    """Whether there was one: it may have ended meanwhile. Its number is nobody else's so soon."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
    return False


# -- loads ---------------------------------------------------------------------------------------


async def spoil_loads(scene: Scene, dice: Random) -> None:
    """The pool's engine dies, and the next ones do not load well."""
    pool, place = draw_pool(dice, is_fake=True), dice.random()
    kind = dice.choice(list(LOAD_FAULTS))
    pid = await scene.find_engine(pool, place)
    scene.book.fault(f"engine {kind}", f"{pool.pool_id} pid={pid}")
    async with scene.loading[pool.pool_id]:
        with _faults_beside(scene, pool, LOAD_FAULTS[kind]):
            _send(pid, signal.SIGKILL)
            await _wait_for_load(scene, pool, pid)
            await asyncio.sleep(LOADS_S)


async def _wait_for_load(scene: Scene, pool: Pool, pid: int | None) -> None:
    """Until the pool has an engine where there was none, or another than that one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOAD_WAIT_S):
            while True:
                replicas = (await scene.client.pool(pool.pool_id))["replicas"]
                if any(one["state"] == "loading" and one["pid"] != pid for one in replicas):
                    return
                await asyncio.sleep(LOOK_S)


@contextlib.contextmanager
def _faults_beside(scene: Scene, pool: Pool, faults: Mapping[str, object]) -> Iterator[None]:
    """For the engines of each of the pool's models that start meanwhile."""
    models = [Path(model) for model in scene.world.models[pool.pool_id]]
    kept = {model: model_faults(model).read_text() for model in models}
    for model, text in kept.items():
        _replace(model_faults(model), json.dumps(json.loads(text) | dict(faults)))
    try:
        yield
    finally:
        for model, text in kept.items():
            _replace(model_faults(model), text)


async def take_the_model_away(scene: Scene, dice: Random) -> None:
    await _lose_models(scene, dice, "model file is missing", lambda _: None)


async def cut_the_model_short(scene: Scene, dice: Random) -> None:
    await _lose_models(scene, dice, "model file is truncated", lambda whole: whole[:2000])


async def _lose_models(
    scene: Scene, dice: Random, kind: str, spoil: Callable[[bytes], bytes | None]
) -> None:
    pool, place = draw_pool(dice, is_fake=True), dice.random()
    pid = await scene.find_engine(pool, place)
    scene.book.fault(kind, f"{pool.pool_id} pid={pid}")
    async with scene.loading[pool.pool_id]:
        with _models_lost(scene, pool, spoil):
            _send(pid, signal.SIGKILL)
            await asyncio.sleep(LOADS_S)


@contextlib.contextmanager
def _models_lost(
    scene: Scene, pool: Pool, spoil: Callable[[bytes], bytes | None]
) -> Iterator[None]:
    models = [Path(model) for model in scene.world.models[pool.pool_id]]
    for model in models:
        aside = model.with_suffix(".aside")
        model.rename(aside)
        with aside.open("rb") as file:
            left = spoil(file.read(4000))
        if left is not None:
            model.write_bytes(left)
    try:
        yield
    finally:
        for model in models:
            model.with_suffix(".aside").replace(model)


async def steal_the_port(scene: Scene, dice: Random) -> None:
    """The engine is kept from binding until somebody else listens on its port."""
    pool, place = draw_pool(dice, is_fake=True), dice.random()
    held = scene.world.folder / f"port-{dice.getrandbits(32):x}"
    pid = await scene.find_engine(pool, place)
    scene.book.step(f"engine dies for its port: {pool.pool_id} pid={pid}")
    async with scene.loading[pool.pool_id]:
        with contextlib.ExitStack() as stack:
            stack.callback(held.unlink, missing_ok=True)
            with _faults_beside(scene, pool, {"hold_port": str(held)}):
                _send(pid, signal.SIGKILL)
                port = await asyncio.to_thread(_wait_for_port, held)
            if port is not None:
                stack.enter_context(_listening(port))
                scene.book.fault("engine's port is stolen", f"{pool.pool_id} port={port}")
                held.unlink()
                await asyncio.sleep(LOADS_S)


def _wait_for_port(held: Path) -> int | None:
    """The port of the next engine; None where there is none in time."""
    deadline_s = time.monotonic() + LOAD_WAIT_S
    while not held.exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return int(held.read_text()) if held.exists() else None


@contextlib.contextmanager
def _listening(port: int) -> Iterator[None]:
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        yield


def _replace(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(path)

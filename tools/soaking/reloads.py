"""Reloads, good and bad, alone and in storms; what each may be answered."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from random import Random

import httpx

from soaking.book import Invariant
from soaking.client import RELOAD_TIMEOUT_S, TIMEOUT_S
from soaking.pools import LARGE_MIB, POOLS, Pool
from soaking.scene import Scene
from tests.fakes.engines import write_heavy_model

STORM = 5
OLD_MODEL = (" was not touched", " is back", " is not back yet and is tried again: ")
"""What a reload that failed says of it. The last is for a card that was lost meanwhile: the rest
that follows shows that it came back."""
HANG_UP = httpx.Timeout(TIMEOUT_S, read=0.3)

BAD = ("absent", "a folder", "cut short", "too large", "exits", "crashes at its first token")


def write_bad_models(folder: Path) -> None:
    """Those that no pool may come to serve."""
    os.truncate(write_heavy_model(folder / "bad-cut short.gguf", LARGE_MIB), 2000)
    (folder / "bad-a folder.gguf").mkdir()
    write_heavy_model(folder / "bad-too large.gguf", 16 * 1024)
    write_heavy_model(folder / "bad-exits.gguf", LARGE_MIB // 3, exit_at_load="error: no luck")
    crashing = folder / "bad-crashes at its first token.gguf"
    write_heavy_model(crashing, LARGE_MIB // 3, prompt="[crash 0] ")


def list_bad(pool: Pool) -> list[str]:
    """Kinds that the pool must not come to serve; on the CPU there is room for what no card has."""
    return [kind for kind in BAD if pool.cards or kind != "too large"]


def draw_pool(dice: Random) -> Pool:
    return dice.choice([pool for pool in POOLS if pool.is_reloaded])


async def reload_well(scene: Scene, dice: Random) -> None:
    pool, model = _draw_good(scene, dice)
    async with scene.reloading[pool.pool_id]:
        await reload(scene, pool, model)
        await _check_model(scene, pool)


async def reload_badly(scene: Scene, dice: Random) -> None:
    pool = draw_pool(dice)
    kind = dice.choice(list_bad(pool))
    scene.book.fault(f"reload to a model that is {kind}", pool.pool_id)
    async with scene.reloading[pool.pool_id]:
        await reload(scene, pool, str(scene.world.folder / f"bad-{kind}.gguf"))
        await _check_model(scene, pool)


async def _check_model(scene: Scene, pool: Pool) -> None:
    """It has the one that the last answer named, or still the one before; at the next rest another
    reload may have covered what this one did. The caller holds the pool's lock."""
    if (expected := scene.models[pool.pool_id]) is not None:
        told = (await scene.client.pool(pool.pool_id))["model"]
        text = f"after its reload {pool.pool_id} has {told}, not {expected}"
        scene.book.check(Invariant.RELOADS, told == expected, text)


async def storm(scene: Scene, dice: Random) -> None:
    """Several at once, of one pool."""
    pool, _ = _draw_good(scene, dice)
    models: list[str | None] = [None, *scene.world.models[pool.pool_id]]
    models += [str(scene.world.folder / f"bad-{kind}.gguf") for kind in list_bad(pool)]
    wanted = [dice.choice(models) for _ in range(STORM)]
    scene.book.fault("storm of reloads", f"{pool.pool_id} to {wanted}")
    async with scene.reloading[pool.pool_id]:
        await asyncio.gather(*[reload(scene, pool, model) for model in wanted])


async def hang_up(scene: Scene, dice: Random) -> None:
    """The client does not wait for the answer; the reload goes on."""
    pool, model = _draw_good(scene, dice)
    scene.book.fault("client hangs up on its reload", f"{pool.pool_id} to {model}")
    path, body = f"/v1/pools/{pool.pool_id}/reload", {"new_model_ref": model} if model else None
    async with scene.reloading[pool.pool_id]:
        scene.models[pool.pool_id] = None
        try:
            await scene.client.ask("POST", path, body, HANG_UP)
        except httpx.ReadTimeout:
            scene.book.reloads["not heard"] += 1


def _draw_good(scene: Scene, dice: Random) -> tuple[Pool, str | None]:
    """A pool, and one of its models, or its own afresh."""
    pool = draw_pool(dice)
    return pool, dice.choice([None, *scene.world.models[pool.pool_id]])


async def reload(scene: Scene, pool: Pool, model: str | None) -> None:
    """One, to its answer, which must name its end and be true. A caller holds the pool's lock: what
    is expected of it must not change between an answer and its arrival here."""
    body = None if model is None else {"new_model_ref": model}
    path = f"/v1/pools/{pool.pool_id}/reload"
    about = f"a reload of {pool.pool_id} to {model}"
    async with scene.client.contain(about):
        answer = await scene.client.ask("POST", path, body, RELOAD_TIMEOUT_S)
        told = answer.json()
        outcome = str(answer.status_code) if answer.is_success else told["code"]
        scene.book.reloads[outcome] += 1
        scene.book.step(f"{about}: {outcome} {told.get('message', '')[:120]}")
        is_bad = model is not None and model not in scene.world.models[pool.pool_id]
        match outcome:
            case "200":
                scene.models[pool.pool_id] = told["model_ref"]
                is_kept = not is_bad
            case "RELOAD_FAILED":
                is_kept = any(words in told["message"] for words in OLD_MODEL)
            case _:
                is_kept = outcome == "CONFLICT"
        scene.book.check(Invariant.RELOADS, is_kept, f"{about}: {answer.status_code} {told}")

"""Footprints of real pools: their files, their engine's flags, what was learned, dead disks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchd.config.model import PoolConfig
from orchd.engines.llamacpp import LlamaCpp
from orchd.engines.memory_demand import DeviceKind, MemoryDemand
from orchd.engines.registry import ADAPTERS
from orchd.errors import HostError
from orchd.runner.footprint import MIB, Footprint
from orchd.runner.learned import Learned
from orchd.runner.reckoner import READINGS_MAX, Reckoner
from orchd.runner.remembered import FootprintKey
from tests.conftest import Drive
from tests.fakes.engines import write_model
from tests.fakes.gguf import write_sparse
from tests.fakes.hub import LLAMA_8B, write_cached, write_folder
from tests.runner.models import LLAMA_3_8B, SMOLLM2_135M
from tests.runner.pools import make_pool


@pytest.fixture
def pool(tmp_path: Path) -> PoolConfig:
    model = write_sparse(tmp_path / "m.gguf", LLAMA_3_8B.head(), 9_000_000_000)
    return make_pool(model=model, binary=tmp_path / "engine")


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Path]:
    """Blocks as a dead network disk does."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    yield path
    os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))


async def reckon(
    pool: PoolConfig, kind: DeviceKind = "gpu", learned: Learned | None = None
) -> Footprint:
    reckoner = Reckoner(ADAPTERS, learned or Learned(None), answer_timeout_s=30)
    return reckoner.reckon(pool, await reckoner.read(pool), kind)


def test_a_footprint_is_that_of_the_file_and_the_flags(
    drive: Drive[None], pool: PoolConfig
) -> None:
    async def scenario() -> None:
        plain = await reckon(pool)
        packed = await reckon(replace(pool, args=("-ctk", "q8_0", "-ctv", "q8_0")))
        assert packed.reckoning.startswith("weights 7.4 GiB, KV cache for 2 × 4096 tokens in q8_0")
        assert packed.need_bytes < plain.need_bytes
        on_cpu = await reckon(pool, "cpu")
        assert [item.what for item in on_cpu.items][-2:] == ["process", "prompt cache"]

    drive(scenario())


def test_what_is_measured_is_remembered_under_the_footprints_key(
    drive: Drive[None], pool: PoolConfig
) -> None:
    async def scenario() -> None:
        learned = Learned(None)
        first = await reckon(pool, learned=learned)
        assert first.key is not None
        learned.remember(first.key, 9_500_000_000)
        assert (await reckon(pool, learned=learned)).need_bytes == 9_500_000_000 * 21 // 20
        for other in (replace(pool, ctx=8192), replace(pool, slots=1), replace(pool, args=("-x",))):
            assert (await reckon(other, learned=learned)).source == "reckoned"
        assert (await reckon(pool, "cpu", learned)).source == "reckoned"
        os.utime(pool.model, ns=(1, 1))
        assert (await reckon(pool, learned=learned)).source == "reckoned"

    drive(scenario())


def test_the_key_says_what_it_stands_for(drive: Drive[None], pool: PoolConfig) -> None:
    async def scenario() -> None:
        footprint = await reckon(replace(pool, args=("--metrics",)))
        seen = os.stat(pool.model)  # noqa: PTH116
        assert footprint.key == FootprintKey(
            engine="llamacpp",
            engine_version="",
            model=pool.model,
            files_bytes=seen.st_size,
            files_mtime_ns=seen.st_mtime_ns,
            ctx=4096,
            slots=2,
            args=("--metrics",),
            device_kind="gpu",
        )

    drive(scenario())


def test_another_engine_is_measured_anew(
    drive: Drive[None], pool: PoolConfig, tmp_path: Path
) -> None:
    async def scenario() -> None:
        learned = Learned(None)
        before = await reckon(pool, learned=learned)
        assert before.key is not None
        learned.remember(before.key, before.need_bytes + 1)
        program = tmp_path / "engine"
        program.write_text("")
        program.chmod(0o755)
        after = await reckon(pool, learned=learned)
        assert after.source == "reckoned"
        assert after.key is not None
        assert after.key.engine_version.startswith(f"{program} 0 ")

    drive(scenario())


def test_a_draft_model_is_read_and_counted(
    drive: Drive[None], pool: PoolConfig, tmp_path: Path
) -> None:
    draft = write_sparse(tmp_path / "d.gguf", SMOLLM2_135M.head(), 1 << 30)

    async def scenario() -> None:
        footprint = await reckon(replace(pool, args=("-md", str(draft))))
        assert "draft model: weights" in [item.what for item in footprint.items]

    drive(scenario())


def test_with_vram_mib_the_model_only_has_to_be_there(drive: Drive[None], tmp_path: Path) -> None:
    (tmp_path / "future.gguf").write_bytes(b"GGUF\x63\0\0\0")

    async def scenario() -> None:
        written = make_pool(model=tmp_path / "future.gguf", vram_mib=6200)
        footprint = await reckon(written)
        assert (footprint.need_bytes, footprint.source) == (6200 * MIB, "configured")
        assert footprint.key is None
        with pytest.raises(HostError, match="of version 99, and orchd reads 1 to 3; with the"):
            await reckon(replace(written, vram_mib=None))
        with pytest.raises(HostError, match="No such file"):
            await reckon(replace(written, model=str(tmp_path / "absent")))

    drive(scenario())


def test_an_engine_that_claims_a_share_of_the_card_needs_no_file(drive: Drive[None]) -> None:
    class Claiming(LlamaCpp):
        def memory_demand(self, pool: PoolConfig, kind: DeviceKind) -> MemoryDemand:
            return MemoryDemand(pool.ctx, pool.slots, 512, total_fraction=0.92)

    async def scenario() -> None:
        reckoner = Reckoner({"llamacpp": Claiming()}, Learned(None), answer_timeout_s=30)
        pool = make_pool(model="an/id-of-a-model")
        footprint = reckoner.reckon(pool, await reckoner.read(pool), "gpu")
        assert footprint.need_bytes_on(100 * MIB) == 92 * MIB

    drive(scenario())


def test_a_disk_that_does_not_answer_is_given_up_and_asked_once(
    drive: Drive[None], fifo: Path, tmp_path: Path
) -> None:
    model = write_model(tmp_path)

    async def scenario() -> None:
        reckoner = Reckoner(ADAPTERS, Learned(None), answer_timeout_s=0.02)
        for _ in range(3):
            with pytest.raises(HostError, match=r"its disk did not answer for 0\.02 s"):
                await reckoner.read(make_pool(model=fifo))
        threads = [thread.name for thread in threading.enumerate()]
        assert threads.count("read a model") == 1
        # Another model is not held up by it.
        patient = Reckoner(ADAPTERS, Learned(None), answer_timeout_s=30)
        await patient.read(make_pool(model=model))

    drive(scenario())


def test_readings_of_models_that_came_and_went_are_let_go(
    drive: Drive[None], tmp_path: Path
) -> None:
    model = write_model(tmp_path)

    async def scenario() -> None:
        reckoner = Reckoner(ADAPTERS, Learned(None), answer_timeout_s=30)
        for n in range(READINGS_MAX + 5):
            await reckoner.read(make_pool(model=model, args=(f"--x{n}",)))
        assert reckoner.readings == READINGS_MAX

    drive(scenario())


# -- a server that is given a name ----------------------------------------------------------------


def make_named(model: str, vram_mib: int | None = None) -> PoolConfig:
    pool = make_pool(model=model, vram_mib=vram_mib)
    return replace(pool, engine="openai", command=("serve", "{port}"))


def test_of_a_foreign_server_the_models_file_is_all_that_is_known(
    drive: Drive[None], tmp_path: Path
) -> None:
    async def scenario() -> None:
        file = await reckon(make_named(str(write_model(tmp_path, 3 * MIB))), "cpu")
        assert (file.need_bytes, file.weights_bytes, file.key) == (3 * MIB, 0, None)
        assert file.reckoning.startswith("model file 0.0 GiB; what a server takes beside")
        for model in ("org/model", str(tmp_path), f"{tmp_path}/no.gguf", "model.gguf", "\ud800/"):
            unknown = await reckon(make_named(model), "cpu")
            assert (unknown.need_bytes, unknown.items) == (0, ())
            assert unknown.reckoning.startswith("what a server takes beside")

    drive(scenario())


def test_what_is_written_is_what_a_foreign_server_needs(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        for model in ("org/model", str(write_model(tmp_path, 3 * MIB)), "/no/model"):
            told = await reckon(make_named(model, vram_mib=6000))
            assert (told.need_bytes, told.source) == (6000 * MIB, "configured")
            # Nor is the model's size what must be seen on its card.
            assert told.weights_bytes == 0

    drive(scenario())


# -- a hub's model, for vLLM ---------------------------------------------------------------------


GIB = 1 << 30


def vllm_pool(model: Path | str, **keys: Any) -> PoolConfig:
    return replace(make_pool(model=model, devices=("auto",), **keys), engine="vllm")


def test_a_hubs_model_is_reckoned_from_its_folder(drive: Drive[None], tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m", LLAMA_8B, 15 * GIB)

    async def scenario() -> None:
        footprint = await reckon(vllm_pool(model, slots=4))
        sizes = {item.what: item.size_bytes for item in footprint.items}
        assert sizes["weights"] == footprint.weights_bytes == 15 * GIB
        assert sizes["KV cache for 4 × 4096 tokens in f16"] == footprint.cache_bytes == 2 * GIB
        assert "CUDA graphs" in sizes
        assert footprint.total_fraction is None
        assert footprint.need_bytes == sum(sizes.values()) < 20 * GIB
        # It fills what it is given: measured, it would need a little more at each start.
        assert footprint.key is None
        on_cpu = await reckon(vllm_pool(model, slots=4, ctx=4000), "cpu")
        assert on_cpu.cache_bytes == 2 * GIB, "in whole GiB"

    drive(scenario())


def test_a_model_that_is_not_here_takes_most_of_a_card_and_the_mend_is_told(
    drive: Drive[None],
) -> None:
    async def scenario() -> None:
        footprint = await reckon(vllm_pool("org/model", env={"HF_HOME": "/nowhere"}))
        assert footprint.need_bytes_on(100 * GIB) == 90 * GIB
        assert "not on this machine yet; write vram_mib to share the card" in footprint.reckoning
        on_cpu = await reckon(vllm_pool("org/model", env={"HF_HOME": "/nowhere"}), "cpu")
        assert on_cpu.need_bytes >= 4 * GIB
        assert on_cpu.cache_bytes is None

    drive(scenario())


def test_a_name_is_looked_up_in_the_cache_of_the_pools_environment(
    drive: Drive[None], tmp_path: Path
) -> None:
    write_cached(tmp_path / "hub", "org/model", config=LLAMA_8B, weights_bytes=GIB)
    env = {"HF_HOME": str(tmp_path)}

    async def scenario() -> None:
        known = await reckon(vllm_pool("org/model", env=env))
        assert known.weights_bytes == GIB
        for args in (("--revision", "x"), ("--download-dir=/d",)):
            elsewhere = await reckon(vllm_pool("org/model", env=env, args=args))
            assert elsewhere.total_fraction == 0.9
        # The same reckoner tells pools apart that look elsewhere.
        reckoner = Reckoner(ADAPTERS, Learned(None), answer_timeout_s=30)
        for environment, fraction in ((env, None), ({"HF_HOME": "/nowhere"}, 0.9), (env, None)):
            pool = vllm_pool("org/model", env=environment)
            reading = await reckoner.read(pool)
            assert reckoner.reckon(pool, reading, "gpu").total_fraction == fraction

    drive(scenario())


def test_with_vram_mib_a_hubs_folder_only_has_to_be_there(
    drive: Drive[None], tmp_path: Path
) -> None:
    model = write_folder(tmp_path / "m")
    (model / "config.json").write_text("{")

    async def scenario() -> None:
        with pytest.raises(HostError, match=r"config\.json is not JSON"):
            await reckon(vllm_pool(model))
        footprint = await reckon(vllm_pool(model, vram_mib=6200))
        assert (footprint.need_bytes, footprint.source) == (6200 * MIB, "configured")
        with pytest.raises(HostError, match="No such folder"):
            await reckon(vllm_pool(tmp_path / "absent", vram_mib=6200))
        unseen = await reckon(vllm_pool("org/model", vram_mib=6200, env={"HF_HOME": "/nowhere"}))
        assert unseen.need_bytes_on(100 * GIB) == 6200 * MIB

    drive(scenario())

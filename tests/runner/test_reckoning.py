"""Items of a footprint, against what llama.cpp itself prints for the same shapes and settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchd.engines.memory_demand import MemoryDemand
from orchd.runner.model_facts import ModelFacts
from orchd.runner.reckoning import cache_bytes, compute_bytes, reckon_items, weights_bytes
from tests.fakes.gguf import Value, write_head
from tests.runner import models
from tests.runner.models import (
    GEMMA_2_9B,
    GEMMA_3_12B,
    LLAMA_3_8B,
    LLAMA_3_70B,
    MIXTRAL_8X7B,
    DeepSeekV2Lite,
    facts_of,
)

MIB = 1024 * 1024
OLD_DEEPSEEK = DeepSeekV2Lite(is_latent=False)


def demand(slots: int, ctx: int, **more: Any) -> MemoryDemand:
    return MemoryDemand(ctx, slots, **{"batch_tokens": 512, **more})


PLAIN: dict[str, Any] = {"is_attention_fused": False}

# Printed by llama.cpp (build 11549) at its start: "KV buffer size" and "compute buffer size".
PRINTED = [
    (LLAMA_3_8B, demand(2, 8192), 2048, 132.02),
    (LLAMA_3_8B, demand(1, 131_072), 16_384, 252.02),
    (LLAMA_3_8B, demand(4, 4096, batch_tokens=256), 2048, 64.01),
    (LLAMA_3_8B, demand(1, 4096, batch_tokens=2048), 512, 512.07),
    (LLAMA_3_8B, demand(3, 1000), 384, 125.26),
    (LLAMA_3_8B, demand(1, 8192, key_type="q8_0", value_type="q4_0"), 416, 132.10),
    (LLAMA_3_8B, demand(1, 8192, **PLAIN), 1024, 580.01),
    (LLAMA_3_8B, demand(4, 8192, **PLAIN), 4096, 580.01),
    (LLAMA_3_8B, demand(1, 16_384, **PLAIN), 2048, 1108.01),
    (LLAMA_3_70B, demand(2, 8192), 5120, 256.02),
    (MIXTRAL_8X7B, demand(2, 8192), 2048, 216.02),
    (GEMMA_2_9B, demand(2, 8192), 2688 + 1512, 131.53),
    (GEMMA_2_9B, demand(2, 8192, keeps_windows_only=False), 5376, 135.03),
    (GEMMA_2_9B, demand(3, 5000), 2520 + 2268, 128.78),
    (GEMMA_2_9B, demand(64, 512, batch_tokens=64), 10_752, 67.00),
    (GEMMA_2_9B, demand(1, 16_384, **PLAIN), 3444, 620.02),
    (GEMMA_3_12B, demand(2, 8192), 1024 + 960, 137.03),
    (DeepSeekV2Lite(), demand(2, 8192), 486, 92.14),
    (DeepSeekV2Lite(), demand(2, 8192, key_type="q8_0", value_type="q8_0"), 258.19, 92.14),
    (OLD_DEEPSEEK, demand(2, 8192), 4320, 92.14),
]


@pytest.mark.parametrize(("shape", "asked", "cache_mib", "compute_mib"), PRINTED)
def test_cache_and_work_space_are_those_that_the_engine_prints(
    shape: models.Shape | DeepSeekV2Lite,
    asked: MemoryDemand,
    cache_mib: float,
    compute_mib: float,
) -> None:
    facts = shape.facts()
    assert cache_bytes(facts, asked) == pytest.approx(cache_mib * MIB, rel=1e-4)
    assert compute_bytes(facts, asked) == pytest.approx(compute_mib * MIB, rel=0.03)


def test_recurrent_layers_keep_a_state_and_no_cache() -> None:
    """Printed for mamba-1.4b with two slots: R 4.50 MiB, S 24.00 MiB."""
    facts = facts_of(write_head(models.MAMBA_1_4B))
    items = {item.what: item.size_bytes for item in reckon_items(facts, demand(2, 8192))}
    assert items["recurrent state"] == 28.5 * MIB
    assert not any(what.startswith("KV cache") for what in items)


def test_a_cache_that_is_packed_is_unpacked_a_layer_at_a_time_on_a_gpu() -> None:
    facts = LLAMA_3_8B.facts()
    on_gpu = demand(2, 8192, unpacks_cache=True)
    packed = replace(on_gpu, key_type="q8_0", value_type="q8_0")
    layer_bytes = 2 * 8192 * 2 * 8 * 128 * 2
    assert compute_bytes(facts, packed) - compute_bytes(facts, on_gpu) == layer_bytes
    on_cpu = replace(packed, unpacks_cache=False)
    assert compute_bytes(facts, on_cpu) == compute_bytes(facts, on_gpu)


# -- what lies on the device -------------------------------------------------------------------


def test_the_table_of_tokens_stays_on_the_host_unless_it_is_the_output_too() -> None:
    on_gpu = demand(1, 4096, is_input_on_device=False)
    facts = LLAMA_3_8B.facts()
    table_bytes = 128_256 * 4096 // 32 * 34
    assert facts.weights.total_bytes - weights_bytes(facts, on_gpu) == table_bytes
    tied = GEMMA_2_9B.facts()
    assert weights_bytes(tied, on_gpu) == tied.weights.total_bytes


def test_layers_on_the_host_take_nothing_of_the_device() -> None:
    facts = LLAMA_3_8B.facts()
    whole, half = demand(1, 4096), demand(1, 4096, layers_on_device=16)
    assert cache_bytes(facts, half) * 2 == cache_bytes(facts, whole)
    layers = sum(size for _, size in facts.weights.layer_bytes)
    assert weights_bytes(facts, whole) - weights_bytes(facts, half) == layers // 2
    assert weights_bytes(facts, replace(whole, layers_on_device=99)) == weights_bytes(facts, whole)


def test_without_any_layer_on_it_the_device_holds_nothing_of_the_model() -> None:
    assert reckon_items(LLAMA_3_8B.facts(), demand(1, 4096, layers_on_device=0)) == ()


def test_experts_on_the_host_are_left_out_layer_by_layer() -> None:
    facts = MIXTRAL_8X7B.facts()
    expert_bytes = 3 * 8 * 4096 * 14_336 // 32 * 34
    whole = weights_bytes(facts, demand(1, 4096))
    for layers, on_host in [(4, 4), (999, 32)]:
        asked = demand(1, 4096, expert_layers_on_host=layers)
        assert whole - weights_bytes(facts, asked) == on_host * expert_bytes


def test_experts_of_a_layer_on_the_host_are_left_out_once() -> None:
    facts = MIXTRAL_8X7B.facts()
    asked = demand(1, 4096, layers_on_device=30, expert_layers_on_host=2)
    same = demand(1, 4096, layers_on_device=30)
    assert weights_bytes(facts, asked) == weights_bytes(facts, same)


def test_a_cache_on_the_host_takes_nothing_of_the_device() -> None:
    asked = demand(1, 4096, is_cache_on_device=False)
    assert cache_bytes(LLAMA_3_8B.facts(), asked) == 0
    mamba = facts_of(write_head(models.MAMBA_1_4B))
    assert "recurrent state" not in {item.what for item in reckon_items(mamba, asked)}


def test_a_type_of_cache_that_ggml_has_not_counts_as_f16() -> None:
    facts = LLAMA_3_8B.facts()
    assert cache_bytes(facts, demand(1, 4096, key_type="q9")) == cache_bytes(facts, demand(1, 4096))


@pytest.mark.parametrize("layers", [1, 4])
def test_a_model_that_says_next_to_nothing_still_has_its_weights(layers: int) -> None:
    bare: dict[str, Value] = {"general.architecture": "new", "new.block_count": layers}
    facts: ModelFacts = facts_of(write_head(bare, models.place_tensors(iter([("a", (64, 64))]))))
    assert [item.what for item in reckon_items(facts, demand(1, 4096))] == ["weights"]

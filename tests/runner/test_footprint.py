"""The footprint of a replica: where it comes from, what it says, and sizes for people."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchd.engines.memory_demand import Companion, MemoryDemand
from orchd.runner.footprint import MIB, Footprint, LoadedFile, format_gib, reckon_footprint
from orchd.runner.gguf import Weights
from tests.fakes.gguf import Value, write_head
from tests.runner.models import LLAMA_3_8B, SMOLLM2_135M, facts_of
from tests.runner.pools import make_pool

GIB = 1024 * MIB
FACTS = LLAMA_3_8B.facts()
MODEL = [LoadedFile(FACTS.weights, FACTS)]
DEMAND = MemoryDemand(4096, 2, 512, fixed=(("CUDA context", 512 * MIB),))
RECKONED = reckon_footprint(make_pool(), DEMAND, MODEL)


def test_what_the_configuration_says_is_taken_as_it_is() -> None:
    footprint = reckon_footprint(make_pool(vram_mib=6200), DEMAND, MODEL, learned_bytes=7 * GIB)
    assert footprint == Footprint(6200 * MIB, "vram_mib of the configuration", source="configured")


def test_a_reckoning_names_its_parts_and_is_their_sum() -> None:
    assert RECKONED.source == "reckoned"
    assert [item.what for item in RECKONED.items] == [
        "weights",
        "KV cache for 2 × 4096 tokens in f16",
        "compute buffer",
        "CUDA context",
    ]
    assert sum(item.size_bytes for item in RECKONED.items) == RECKONED.need_bytes
    assert RECKONED.reckoning == (
        "weights 7.9 GiB, KV cache for 2 × 4096 tokens in f16 1.0 GiB, compute buffer 0.1 GiB,"
        " CUDA context 0.5 GiB"
    )


def test_what_was_measured_goes_before_what_is_reckoned() -> None:
    footprint = reckon_footprint(make_pool(), DEMAND, MODEL, learned_bytes=10 * GIB)
    need_bytes = 10 * GIB + 10 * GIB // 20
    assert (footprint.need_bytes, footprint.source) == (need_bytes, "measured")
    assert footprint.reckoning == "10.0 GiB measured at an earlier load, and a twentieth"
    assert sum(item.size_bytes for item in footprint.items) == need_bytes
    assert footprint.weights_bytes == RECKONED.weights_bytes == FACTS.weights.total_bytes


@pytest.mark.parametrize(
    ("learned_bytes", "is_taken"),
    [
        (FACTS.weights.total_bytes, True),
        (FACTS.weights.total_bytes - 1, False),
        (RECKONED.need_bytes * 2, True),
        (RECKONED.need_bytes * 2 + 1, False),
        (0, False),
    ],
)
def test_a_measurement_that_cannot_be_is_not_taken(learned_bytes: int, is_taken: bool) -> None:
    footprint = reckon_footprint(make_pool(), DEMAND, MODEL, learned_bytes)
    expected = learned_bytes + learned_bytes // 20 if is_taken else RECKONED.need_bytes
    assert footprint.need_bytes == expected


def test_a_small_model_may_take_two_gib_more_than_reckoned() -> None:
    facts = SMOLLM2_135M.facts()
    small = [LoadedFile(facts.weights, facts)]
    need_bytes = reckon_footprint(make_pool(), DEMAND, small).need_bytes
    for learned_bytes, source in [(2048 * MIB, "measured"), (2048 * MIB + 1, "reckoned")]:
        footprint = reckon_footprint(make_pool(), DEMAND, small, need_bytes + learned_bytes)
        assert footprint.source == source


def test_an_engine_that_claims_a_share_needs_it_of_the_whole_card() -> None:
    """vLLM's --gpu-memory-utilization: 0.92 of the card's total memory, however small the model."""
    demand = MemoryDemand(4096, 2, 512, total_fraction=0.92)
    footprint = reckon_footprint(make_pool(), demand, ())
    assert footprint.need_bytes_on(24 * GIB) == -(-24 * GIB * 92 // 100)
    assert footprint.need_bytes_on(8 * GIB) == -(-8 * GIB * 92 // 100)
    assert footprint.reckoning == "92% of the whole card, whatever the model"


def test_a_share_is_no_less_than_the_least_that_is_needed() -> None:
    footprint = Footprint(6 * GIB, "", total_fraction=0.5)
    assert footprint.need_bytes_on(8 * GIB) == 6 * GIB
    assert footprint.need_bytes_on(16 * GIB) == 8 * GIB


def test_other_engines_need_the_same_of_every_card() -> None:
    assert {RECKONED.need_bytes_on(total) for total in (1, 8 * GIB, 80 * GIB)} == {
        RECKONED.need_bytes
    }


def test_a_projector_counts_with_its_weights() -> None:
    projector = LoadedFile(
        Weights(600 * MIB), None, Companion("projector", "/mmproj.gguf", has_cache=False)
    )
    footprint = reckon_footprint(make_pool(), DEMAND, [*MODEL, projector])
    assert footprint.need_bytes == RECKONED.need_bytes + 600 * MIB
    assert "projector 0.6 GiB" in footprint.reckoning


def test_a_draft_model_counts_with_its_own_cache_whatever_the_models_cache_is_kept_in() -> None:
    facts = SMOLLM2_135M.facts()
    draft = LoadedFile(facts.weights, facts, Companion("draft model", "/draft.gguf", True))
    demand = replace(DEMAND, key_type="q8_0", value_type="q8_0", layers_on_device=10)
    with_draft = reckon_footprint(make_pool(), demand, [*MODEL, draft])
    items = {item.what: item.size_bytes for item in with_draft.items}
    assert items["draft model: weights"] == facts.weights.total_bytes
    assert items["draft model: KV cache for 2 × 4096 tokens in f16"] == 2 * 4096 * 22.5 * 1024


def test_what_is_not_reckoned_is_said() -> None:
    head: dict[str, Value] = {
        "general.architecture": "rwkv7",
        "rwkv7.block_count": 2,
        "rwkv7.wkv.head_size": 0,
    }
    facts = facts_of(write_head(head))
    demand = replace(DEMAND, notes=("what --override-tensor moves is not reckoned",))
    footprint = reckon_footprint(make_pool(), demand, [LoadedFile(facts.weights, facts)])
    assert footprint.reckoning.endswith(
        "; the state of its recurrent layers is not reckoned"
        "; what --override-tensor moves is not reckoned"
    )


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0.0 GiB"), (1024 * MIB, "1.0 GiB"), (9318 * MIB, "9.1 GiB")]
)
def test_sizes_are_told_in_gib(size_bytes: int, text: str) -> None:
    assert format_gib(size_bytes) == text

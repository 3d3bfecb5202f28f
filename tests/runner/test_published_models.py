"""Footprints of published models, against figures that do not come from our formulas.

What is expected of each: its weights are the parameters that its model card names, at Q8_0's
34 bytes for 32 of them; its cache is the published size for one token; its work space is what
llama.cpp (build 11549) prints for this shape at two slots of 8192 tokens and batches of 512.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchd.engines.llamacpp import LlamaCpp
from orchd.runner.footprint import LoadedFile, reckon_footprint
from tests.runner import models
from tests.runner.pools import make_pool

KIB, MIB = 1024, 1024 * 1024
SLOTS, CTX = 2, 8192
CUDA_BYTES = 512 * MIB
"""What is allowed for the CUDA context, in every footprint on a GPU."""


@dataclass(frozen=True, slots=True)
class Published:
    """Figures from outside."""

    shape: models.Shape | models.DeepSeekV2Lite
    parameters: float
    """As the model card names them; the table of tokens with them, once where it serves twice."""
    token_kib: float
    """The cache of one token of one slot in f16, over all layers."""
    compute_mib: float
    windowed_kib: float = 0
    """Of that, the part of the layers that keep only ``window`` tokens."""
    window: int = 0


PUBLISHED = {
    # Card: 8.03B. Cache: 2 × 32 layers × 8 heads × 128 × 2 bytes, widely told as 128 KiB a token.
    "Llama-3-8B": Published(models.LLAMA_3_8B, 8.03e9, 128, 132.02),
    # Card: 70.6B. Cache: told as 320 MB for 1000 tokens.
    "Llama-3.1-70B": Published(models.LLAMA_3_70B, 70.6e9, 320, 256.02),
    # Card (v0.3): 7.25B. Cache: as Llama-3-8B.
    "Mistral-7B": Published(models.MISTRAL_7B, 7.25e9, 128, 132.02),
    # Card: 46.7B. Cache: as Mistral-7B, for experts share the attention.
    "Mixtral-8x7B": Published(models.MIXTRAL_8X7B, 46.7e9, 128, 216.02),
    # Card: 7.61B. Cache: 2 × 28 × 4 × 128 × 2 bytes.
    "Qwen2.5-7B": Published(models.QWEN_2_5_7B, 7.61e9, 56, 154.02),
    # Card: 32.5B (exactly 32.76B). Cache: 2 × 64 × 8 × 128 × 2 bytes.
    "Qwen2.5-32B": Published(models.QWEN_2_5_32B, 32.76e9, 256, 220.02),
    # Card: 9.24B, and its Q8_0 file has 9.82 GB in bartowski/gemma-2-9b-it-GGUF. Cache: 2 × 42 × 8
    # × 256 × 2 bytes, half of the layers with a window of 4096 tokens and a batch.
    "Gemma-2-9B": Published(models.GEMMA_2_9B, 9.24e9, 336, 131.53, 168, 4608),
    # Card: 3.82B. Cache: 2 × 32 × 32 × 96 × 2 bytes: no grouped heads; llama.cpp uses no window.
    "Phi-3-mini": Published(models.PHI_3_MINI, 3.82e9, 384, 86.02),
    # Card: 134.5M. Cache: 2 × 30 × 3 × 64 × 2 bytes.
    "SmolLM2-135M": Published(models.SMOLLM2_135M, 134.5e6, 22.5, 22.64),
    # Card: 15.7B. Cache: (512 + 64) × 27 × 2 bytes, the latent row of its paper.
    "DeepSeek-V2-Lite": Published(models.DeepSeekV2Lite(), 15.7e9, 30.375, 92.14),
}


def expected_bytes(published: Published, *, is_input_on_device: bool) -> float:
    shape = published.shape
    parameters = published.parameters
    if not is_input_on_device and not (isinstance(shape, models.Shape) and shape.is_tied):
        facts = shape.facts()
        parameters -= facts.vocabulary * facts.embedding
    full_kib = published.token_kib - published.windowed_kib
    cache_kib = SLOTS * (CTX * full_kib + published.window * published.windowed_kib)
    return parameters * 34 / 32 + cache_kib * KIB + published.compute_mib * MIB


@pytest.mark.parametrize("name", PUBLISHED)
def test_footprints_on_a_gpu_are_within_a_tenth_of_published_figures(name: str) -> None:
    published = PUBLISHED[name]
    facts = published.shape.facts()
    pool = make_pool(slots=SLOTS, ctx=CTX, devices=("auto",))
    demand = LlamaCpp().memory_demand(pool, "gpu")
    footprint = reckon_footprint(pool, demand, [LoadedFile(facts.weights, facts)])
    expected = expected_bytes(published, is_input_on_device=False)
    reckoned = footprint.need_bytes - CUDA_BYTES
    print(f"{name:17} {expected / MIB:9.0f} {reckoned / MIB:9.0f} {reckoned / expected - 1:+.1%}")
    assert reckoned == pytest.approx(expected, rel=0.1)
    # The whole in three parts, so that no part hides behind a larger one.
    parts = {item.what.split()[0]: item.size_bytes for item in footprint.items}
    assert parts["compute"] == pytest.approx(published.compute_mib * MIB, rel=0.02)
    full_kib = published.token_kib - published.windowed_kib
    cache_kib = SLOTS * (CTX * full_kib + published.window * published.windowed_kib)
    assert parts["KV"] == cache_kib * KIB


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_weights_are_the_parameters_of_the_model_card(name: str) -> None:
    published = PUBLISHED[name]
    weights = published.shape.facts().weights
    assert weights.total_bytes == pytest.approx(published.parameters * 34 / 32, rel=0.01)


def test_a_file_whose_size_is_published_weighs_as_much() -> None:
    """bartowski/gemma-2-9b-it-GGUF: Q8_0 9.82 GB, of which about 5 MB are the tokenizer."""
    assert models.GEMMA_2_9B.facts().weights.total_bytes == pytest.approx(9.82e9, rel=0.005)

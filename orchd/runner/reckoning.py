"""Reckons what a model takes of a device's memory: weights, cache, states, work space.

The formulas are llama.cpp's allocations, checked against the sizes that it prints itself (build
11549 on the CPU; llama, qwen2, phi3, gemma2, gemma3 and deepseek2; 1000 to 131,072 tokens a slot):
caches to the byte, work space within one per cent, without flash attention within three (of
deepseek2: ten). Builds of before it limited its outputs reserve more: a row of the vocabulary for
every token of a batch. Another engine says in its demand where its allocations differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchd.engines.memory_demand import MemoryDemand
from orchd.runner.model_facts import LayerCache, ModelFacts
from orchd.runner.tensor_types import BY_NAME, F16, TensorType

_F32_BYTES = 4


@dataclass(frozen=True, slots=True)
class Item:
    """One part of a footprint."""

    what: str
    size_bytes: int


def reckon_items(facts: ModelFacts, demand: MemoryDemand) -> tuple[Item, ...]:
    """The model's own items, those of no bytes left out; the engine's fixed ones are not here."""
    slots = f"{demand.slots} × {demand.ctx_tokens} tokens"
    types = dict.fromkeys((_type(demand.key_type).name, _type(demand.value_type).name))
    items = (
        Item("weights", weights_bytes(facts, demand)),
        Item(f"KV cache for {slots} in {' and '.join(types)}", cache_bytes(facts, demand)),
        Item("recurrent state", _state_bytes(facts, demand)),
        Item("compute buffer", compute_bytes(facts, demand)),
    )
    return tuple(item for item in items if item.size_bytes)


def weights_bytes(facts: ModelFacts, demand: MemoryDemand) -> int:
    """Tensors that lie on the device."""
    weights = facts.weights
    if weights.unknown_types or not weights.layer_bytes:
        return weights.total_bytes
    if demand.layers_on_device == 0:
        return 0
    on_host = 0
    # One matrix that serves for input and output is on the device whatever becomes of the input.
    if not demand.is_input_on_device and weights.has_output:
        on_host += weights.input_bytes
    first = _first_layer(facts, demand)
    on_host += sum(size for layer, size in weights.layer_bytes if layer < first)
    on_host += sum(
        size
        for layer, size in weights.expert_bytes
        if first <= layer < demand.expert_layers_on_host
    )
    return weights.total_bytes - on_host


def cache_bytes(facts: ModelFacts, demand: MemoryDemand) -> int:
    """Keys and values of every slot's whole context."""
    if not demand.is_cache_on_device:
        return 0
    on_device = facts.caches[_first_layer(facts, demand) :]
    size_bytes = sum(_layer_bytes(facts, demand, cache) for cache in on_device) * demand.slots
    return _round_up(size_bytes, demand.cache_step_bytes)


def compute_bytes(facts: ModelFacts, demand: MemoryDemand) -> int:
    """Work space for one batch: the graph's widest moment, reserved once for all.

    Widest is a feed-forward (gate, up and their product) or the last token of every slot over the
    whole vocabulary, beside five rows of the embedding; or, without flash attention, the scores
    of all heads. The mask of who sees whom is on top.
    """
    if demand.layers_on_device == 0:
        return 0
    batch, row_bytes = demand.batch_tokens, demand.batch_tokens * demand.element_bytes
    outputs = demand.slots * facts.vocabulary * demand.output_bytes
    rows = 5 * row_bytes * facts.embedding
    # One mask for the layers that see everything and one for those that see a window.
    cells = {c.is_windowed: _cells(facts, demand, c) for c in facts.caches if c.key_size}
    masks = batch * sum(cells.values()) if demand.has_masks else 0
    fused = max(3 * row_bytes * facts.feed_forward, outputs) + rows + masks * F16.block_bytes
    if demand.is_attention_fused:
        return fused + _unpacked_bytes(facts, demand)
    keys = max(cache.key_size for cache in facts.caches)
    scores = row_bytes * facts.heads * max(cells.values(), default=0)
    rows = row_bytes * (6 * facts.embedding + 2 * keys)
    return max(fused, scores + rows + masks * _F32_BYTES)


def _unpacked_bytes(facts: ModelFacts, demand: MemoryDemand) -> int:
    """One layer's cache in f16: CUDA's kernels for batches unpack what is kept smaller.

    Source: ggml-cuda's ``fattn-common``; read, not measured.
    """
    plain = ("f16", "bf16", "f32")
    is_packed = not (demand.key_type in plain and demand.value_type in plain)
    if not is_packed or not demand.unpacks_cache:
        return 0
    return max(
        (cache.key_size + cache.value_size) * _cells(facts, demand, cache) for cache in facts.caches
    ) * (demand.slots * F16.block_bytes)


def _state_bytes(facts: ModelFacts, demand: MemoryDemand) -> int:
    return facts.state_bytes * demand.slots if demand.is_cache_on_device else 0


def _layer_bytes(facts: ModelFacts, demand: MemoryDemand, cache: LayerCache) -> int:
    """One layer's cache for one slot."""
    key, value = _type(demand.key_type), _type(demand.value_type)
    each = key.row_bytes(cache.key_size) + value.row_bytes(cache.value_size)
    return each * _cells(facts, demand, cache)


def _cells(facts: ModelFacts, demand: MemoryDemand, cache: LayerCache) -> int:
    """How many tokens of one slot a layer keeps."""
    cells = _round_up(demand.ctx_tokens, demand.cell_tokens)
    if cache.is_windowed and demand.keeps_windows_only:
        # The window, and room for a batch that is written before the old is let go.
        near_tokens = facts.window_tokens + demand.batch_tokens
        return min(cells, _round_up(near_tokens, demand.cell_tokens))
    return cells


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step


def _first_layer(facts: ModelFacts, demand: MemoryDemand) -> int:
    """The first layer that lies on the device."""
    wanted = demand.layers_on_device
    return 0 if wanted is None else max(facts.layers - wanted, 0)


def _type(name: str) -> TensorType:
    # What ggml does not have the engine refuses at its start; f16 is the size to expect then.
    return BY_NAME.get(name, F16)

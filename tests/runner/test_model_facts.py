"""What the keys of a head mean: by layer, by architecture, and where they make no sense."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.runner.gguf import Head, Value, Weights
from orchd.runner.gguf_cursor import ModelFileError
from orchd.runner.model_facts import LayerCache, ModelFacts, add_weights, read_facts


def facts(architecture: str = "llama", layers: int = 4, **keys: Any) -> ModelFacts:
    """Of a head with these keys; two underscores in a name stand for a dot."""
    own = {
        "block_count": layers,
        "embedding_length": 512,
        "attention.head_count": 8,
        **{name.replace("__", "."): value for name, value in keys.items()},
    }
    values = {f"{architecture}.{name}": value for name, value in own.items() if value is not None}
    return read_facts([Head(0, {"general.architecture": architecture, **values}, Weights(1000))])


def kv_sizes(found: ModelFacts) -> list[tuple[int, int]]:
    return [(cache.key_size, cache.value_size) for cache in found.caches]


def windows(found: ModelFacts) -> list[bool]:
    return [cache.is_windowed for cache in found.caches]


# -- heads -------------------------------------------------------------------------------------


def test_without_kv_heads_every_head_keeps_keys_and_values_of_its_own() -> None:
    found = facts()
    assert (found.heads, found.layers) == (8, 4)
    assert found.caches == (LayerCache(512, 512),) * 4


def test_grouped_heads_and_sizes_of_their_own() -> None:
    found = facts(attention__head_count_kv=2, attention__key_length=128, attention__value_length=96)
    assert kv_sizes(found) == [(256, 192)] * 4


def test_heads_may_differ_from_layer_to_layer() -> None:
    found = facts(attention__head_count=(8, 8, 4, 8), attention__head_count_kv=(4, 0, 2, 1))
    assert kv_sizes(found) == [(256, 256), (0, 0), (128, 128), (64, 64)]
    assert found.heads == 8


def test_items_beyond_the_layers_are_left_alone() -> None:
    assert kv_sizes(facts(layers=2, attention__head_count_kv=(1, 2, 3))) == [(64, 64), (128, 128)]


def test_a_latent_row_has_no_values_of_its_own() -> None:
    found = facts(
        "deepseek2",
        attention__head_count_kv=1,
        attention__key_length=576,
        attention__value_length=512,
        attention__key_length_mla=192,
        attention__value_length_mla=128,
    )
    assert kv_sizes(found) == [(576, 0)] * 4


def test_layers_that_share_the_cache_of_others_keep_none() -> None:
    found = facts("gemma3n", attention__shared_kv_layers=3)
    assert [key > 0 for key, _ in kv_sizes(found)] == [True, False, False, False]


# -- windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "pattern", "expected"),
    [
        ("gemma2", None, [True, False, True, False]),
        ("gemma3", None, [True, True, True, True]),
        ("cohere2", None, [True, True, True, False]),
        ("new", (True, False, False, True), [True, False, False, True]),
        ("new", 3, [True, True, False, True]),
        ("new", None, [False] * 4),
        ("phi3", None, [False] * 4),
    ],
)
def test_which_layers_see_only_the_window(
    architecture: str, pattern: object, expected: list[bool]
) -> None:
    found = facts(
        architecture,
        attention__sliding_window=1024,
        attention__sliding_window_pattern=pattern,
    )
    assert found.window_tokens == 1024
    assert windows(found) == expected


def test_without_a_window_every_layer_sees_everything() -> None:
    assert windows(facts("gemma2")) == [False] * 4


def test_layers_with_a_window_may_have_heads_of_another_size() -> None:
    found = facts(
        "gemma2",
        attention__sliding_window=1024,
        attention__key_length=128,
        attention__value_length=128,
        attention__key_length_swa=32,
        attention__value_length_swa=16,
    )
    assert kv_sizes(found) == [(256, 128), (1024, 1024)] * 2


# -- states ------------------------------------------------------------------------------------

STATE = {"ssm__conv_kernel": 4, "ssm__inner_size": 1024, "ssm__state_size": 16}
STATE_BYTES = 4 * (3 * 1024 + 16 * 1024)


def test_a_recurrent_model_keeps_states_only() -> None:
    found = facts("mamba", attention__head_count=0, **STATE)
    assert (found.state_bytes, kv_sizes(found)) == (4 * STATE_BYTES, [(0, 0)] * 4)
    assert found.notes == ()


def test_groups_widen_what_a_convolution_keeps() -> None:
    found = facts("mamba2", 1, attention__head_count=0, **STATE, ssm__group_count=2)
    assert found.state_bytes == STATE_BYTES + 4 * 3 * 2 * 2 * 16


def test_a_hybrid_model_tells_by_its_heads_which_layer_is_which() -> None:
    found = facts("jamba", attention__head_count_kv=(0, 0, 8, 0), **STATE)
    assert found.state_bytes == 3 * STATE_BYTES
    assert kv_sizes(found) == [(0, 0), (0, 0), (512, 512), (0, 0)]
    assert found.notes == ()


def test_a_hybrid_model_may_tell_it_by_an_interval() -> None:
    found = facts("qwen3next", full_attention_interval=4, **STATE)
    assert found.state_bytes == 3 * STATE_BYTES
    assert [key > 0 for key, _ in kv_sizes(found)] == [False, False, False, True]


def test_a_hybrid_model_that_does_not_tell_it_counts_twice_and_says_so() -> None:
    found = facts("falcon-h1", **STATE)
    assert found.state_bytes == 4 * STATE_BYTES
    assert kv_sizes(found) == [(512, 512)] * 4
    assert found.notes == ("a hybrid model: cache and state are counted for every layer",)


def test_other_recurrent_kinds_are_known_by_their_keys() -> None:
    rwkv = facts("rwkv6", attention__head_count=0, wkv__head_size=64, token_shift_count=2)
    assert rwkv.state_bytes == 4 * 4 * (2 * 512 + 512 * 64)
    lfm = facts("lfm2", attention__head_count_kv=(0, 8, 0, 8), shortconv__l_cache=3)
    assert lfm.state_bytes == 2 * 4 * 2 * 512


def test_a_state_or_a_cache_that_is_not_reckoned_is_said() -> None:
    assert facts("new", attention__head_count=0, ssm__state_size=16).notes == (
        "the state of its recurrent layers is not reckoned",
    )
    assert facts("deepseek32", attention__indexer__head_count=64).notes == (
        "the cache of its indexer is not reckoned",
    )


# -- the rest ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"feed_forward_length": 2048}, 2048),
        ({"feed_forward_length": (1024, 4096, 1024, 1024)}, 4096),
        ({"feed_forward_length": 1000, "expert_used_count": 2}, 2000),
        (
            {
                "feed_forward_length": 9000,
                "expert_used_count": 8,
                "expert_feed_forward_length": 1000,
            },
            9000,
        ),
        ({"expert_used_count": 8, "expert_feed_forward_length": 1000}, 8000),
    ],
)
def test_the_widest_row_is_dense_or_that_of_all_experts_in_use(
    keys: dict[str, Any], expected: int
) -> None:
    assert facts(**keys).feed_forward == expected


def test_the_vocabulary_is_that_of_the_table_or_the_key_or_the_tokenizer() -> None:
    assert facts(vocab_size=1000).vocabulary == 1000
    values: dict[str, Value] = {
        "general.architecture": "a",
        "a.block_count": 1,
        "tokenizer.ggml.tokens": 77,
    }
    assert read_facts([Head(0, values, Weights(1))]).vocabulary == 77
    assert read_facts([Head(0, values, Weights(1, vocabulary=88))]).vocabulary == 88


def test_parts_of_a_model_add_up() -> None:
    first = Weights(100, 10, True, 500, ((0, 50), (1, 20)), ((0, 5),))
    second = Weights(200, 0, False, 0, ((1, 100),), ((1, 7),))
    assert add_weights([first, second]) == Weights(
        300, 10, True, 500, ((0, 50), (1, 120)), ((0, 5), (1, 7))
    )
    assert add_weights([first, Weights(9, unknown_types=(99,))]).unknown_types == (99,)


def test_types_that_are_not_known_are_said() -> None:
    values: dict[str, Value] = {"general.architecture": "a", "a.block_count": 1}
    found = read_facts([Head(0, values, Weights(1, unknown_types=(99, 100)))])
    assert found.notes == ("tensor types 99, 100 are not known to orchd: the file's size counts",)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "names no architecture"),
        ({"general.architecture": 7}, "names no architecture"),
        ({"general.architecture": "a\x1b[2J"}, "names no architecture"),
        ({"general.architecture": "a"}, r"names no number of layers \(a.block_count\)"),
        ({"a.block_count": 0}, "names no number of layers"),
        ({"a.block_count": 4097}, "is damaged: a.block_count is 4097"),
        ({"a.block_count": -1}, "is damaged: a.block_count is -1"),
        ({"a.block_count": 4.0}, "is damaged: a.block_count is 4.0"),
        ({"a.block_count": ()}, "names no number of layers"),
        (
            {"a.block_count": 4, "a.attention.head_count_kv": (1, 2)},
            "is damaged: a.attention.head_count_kv has 2 items for 4 layers",
        ),
        (
            {"a.block_count": 1, "a.attention.head_count": (2.5,)},
            "is damaged: a.attention.head_count is 2.5",
        ),
        (
            {"a.block_count": 1, "a.embedding_length": 1 << 40},
            "is damaged: a.embedding_length is 1099511627776",
        ),
    ],
)
def test_keys_that_make_no_sense_are_refused(values: dict[str, Any], problem: str) -> None:
    own = {"general.architecture": "a"} if any(key.startswith("a.") for key in values) else {}
    with pytest.raises(ModelFileError, match=problem):
        read_facts([Head(0, {**own, **values}, Weights(1))])

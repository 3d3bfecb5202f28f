"""What configurations of published models mean for memory, and damaged ones for nobody."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.engines.memory_demand import MemoryDemand
from orchd.runner.gguf_cursor import ModelFileError
from orchd.runner.hub_model import (
    HEADER_BYTES_MAX,
    cache_folder,
    check_header,
    read_config,
    read_header_bytes,
    read_hub_facts,
    read_index,
    repository_folder,
)
from orchd.runner.model_facts import LayerCache
from orchd.runner.reckoning import cache_bytes, compute_bytes
from tests.fakes.hub import LLAMA_8B

DEEP: object = orjson.loads(b"[" * 1000 + b"]" * 1000)
"""As deep as orjson reads; Python cannot show it."""
KIB = 1024
MIB = 1024 * KIB
QWEN3_30B_A3B: Mapping[str, object] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "head_dim": 128,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "vocab_size": 151936,
}
DEEPSEEK_V3: Mapping[str, object] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "qk_rope_head_dim": 64,
    "vocab_size": 129280,
}
GEMMA_3: Mapping[str, object] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": {
        "head_dim": 256,
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "layer_types": [*["sliding_attention"] * 5, "full_attention"] * 2,
        "num_attention_heads": 8,
        "num_hidden_layers": 12,
        "num_key_value_heads": 4,
        "sliding_window": 1024,
        "vocab_size": 262208,
    },
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
}


def demand(ctx: int = 4096, slots: int = 1, **more: object) -> MemoryDemand:
    """vLLM's."""
    return MemoryDemand(
        *(ctx, slots, 2048),
        cell_tokens=16,
        element_bytes=2,
        output_bytes=24,
        has_masks=False,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        (LLAMA_8B, 128 * KIB),
        (QWEN3_30B_A3B, 96 * KIB),
        (DEEPSEEK_V3, 61 * 576 * 2),
    ],
    ids=["grouped heads", "heads of a size of their own", "latent attention"],
)
def test_a_token_takes_as_much_cache_as_is_published(
    config: Mapping[str, object], bytes_per_token: int
) -> None:
    facts = read_hub_facts(config, 1)
    assert cache_bytes(facts, demand(ctx=1600, slots=3)) == 4800 * bytes_per_token
    assert cache_bytes(facts, demand(1600, 3, key_type="fp8", value_type="fp8")) * 2 == (
        4800 * bytes_per_token
    )


def test_a_context_takes_whole_blocks() -> None:
    facts = read_hub_facts(LLAMA_8B, 1)
    assert cache_bytes(facts, demand(ctx=17)) == 32 * 128 * KIB
    whole = cache_bytes(facts, demand(ctx=17, cache_step_bytes=1 << 30))
    assert whole == 1 << 30


def test_layers_with_a_window_keep_that_and_a_batch() -> None:
    facts = read_hub_facts(GEMMA_3, 1)
    row = LayerCache(1024, 1024)
    assert facts.caches.count(row) == 2
    assert facts.window_tokens == 1024
    each = 2 * 1024 * 2
    assert cache_bytes(facts, demand(ctx=32_000)) == each * (10 * 3072 + 2 * 32_000)
    assert any("images" in note for note in facts.notes)
    assert facts.vocabulary == 262208


def test_layers_of_an_unknown_kind_are_counted_whole_and_told() -> None:
    hybrid = {**LLAMA_8B, "layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8}
    facts = read_hub_facts(hybrid, 1)
    assert cache_bytes(facts, demand(16)) == 16 * 128 * KIB
    assert "linear_attention" in facts.notes[0]


def test_layers_that_use_another_s_cache_keep_none() -> None:
    facts = read_hub_facts({**LLAMA_8B, "num_kv_shared_layers": 8}, 1)
    assert cache_bytes(facts, demand(16)) == 16 * 96 * KIB
    facts = read_hub_facts({**LLAMA_8B, "num_kv_shared_layers": 60}, 1)
    assert (facts.layers, cache_bytes(facts, demand(16))) == (32, 0)


def test_a_window_of_no_size_is_none() -> None:
    facts = read_hub_facts({**LLAMA_8B, "layer_types": ["sliding_attention"] * 32}, 1)
    assert cache_bytes(facts, demand(32_000)) == 32_000 * 128 * KIB


def test_the_work_space_is_that_of_the_widest_layer_or_of_all_slots_scores() -> None:
    facts = read_hub_facts(LLAMA_8B, 1)
    rows = 2048 * 2
    assert compute_bytes(facts, demand()) == rows * (3 * 14336 + 5 * 4096)
    assert compute_bytes(facts, demand(slots=256)) == 256 * 128256 * 24 + rows * 5 * 4096
    experts = read_hub_facts(QWEN3_30B_A3B, 1)
    # Eight experts, of each its gate, its up and its down projection's 2048.
    assert experts.feed_forward * 3 >= 8 * (3 * 768 + 2048)


def test_older_names_are_known() -> None:
    gpt2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257}
    facts = read_hub_facts(gpt2, 1)
    assert cache_bytes(facts, demand(16)) == 16 * 12 * 2 * 768 * 2
    assert facts.feed_forward == 4 * 768


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "names no number of layers"),
        ({**LLAMA_8B, "num_hidden_layers": True}, "num_hidden_layers in its config.json is True"),
        ({**LLAMA_8B, "num_hidden_layers": 10**6}, "num_hidden_layers in its config.json"),
        ({**LLAMA_8B, "head_dim": [1, DEEP]}, "head_dim in its config.json is no number"),
        ({**LLAMA_8B, "head_dim": {"a": DEEP}}, "head_dim in its config.json is no number"),
        ({**LLAMA_8B, "hidden_size": -1}, "hidden_size in its config.json is -1"),
        ({**LLAMA_8B, "head_dim": "x" * 999}, "head_dim in its config.json is 'xxx"),
        ({"num_hidden_layers": 1}, "names no number of heads"),
    ],
)
def test_what_cannot_be_is_told(config: Mapping[str, object], words: str) -> None:
    with pytest.raises(ModelFileError) as caught:
        read_hub_facts(config, 1)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"null"])
def test_a_configuration_that_is_none(content: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"config\.json is no"):
        read_config(content)


def test_parts_that_hold_parts_are_looked_into_but_not_for_ever() -> None:
    nested: dict[str, object] = {"thinker_config": {"text_config": dict(LLAMA_8B)}}
    assert read_hub_facts(nested, 1).layers == 32
    deep: dict[str, object] = {}
    for _ in range(100_000):
        deep = {"text_config": deep or {"x": 1}}
    with pytest.raises(ModelFileError, match="names no number of layers"):
        read_hub_facts(deep, 1)
    while deep:  # one by one: freeing it at once would recurse
        deep = deep.pop("text_config", None)  # type: ignore[assignment]


# -- weights -------------------------------------------------------------------------------------


def header(**tensors: object) -> bytes:
    return orjson.dumps(tensors)


def test_a_file_that_is_shorter_than_its_tensors_is_cut() -> None:
    told = header(__metadata__={"a": "b"}, w={"data_offsets": [0, 100]}, x={"data_offsets": [0, 7]})
    whole = 8 + len(told) + 100
    check_header(told, whole)
    check_header(told, whole + 1)
    with pytest.raises(ModelFileError, match="is cut short: 1 bytes are missing"):
        check_header(told, whole - 1)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b'{"w": 1}', b'{"w": {}}'),
        *(b'{"w": {"data_offsets": [5, 1]}}', b'{"w": {"data_offsets": [-5, 1]}}'),
    ],
)
def test_a_header_that_is_none(content: bytes) -> None:
    with pytest.raises(ModelFileError, match="is damaged: its header"):
        check_header(content, 1000)


def test_the_length_of_a_header() -> None:
    assert read_header_bytes((100).to_bytes(8, "little"), 108) == 100
    with pytest.raises(ModelFileError, match="is cut short in its header"):
        read_header_bytes((100).to_bytes(8, "little"), 107)
    with pytest.raises(ModelFileError, match="it is no safetensors file"):
        read_header_bytes((HEADER_BYTES_MAX + 1).to_bytes(8, "little"), 1 << 40)
    with pytest.raises(ModelFileError, match="it has no header"):
        read_header_bytes(b"1234567", 7)


def test_an_index_names_each_file_once() -> None:
    told = {"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "2.safetensors"}}
    assert read_index(orjson.dumps(told)).files == ("1.safetensors", "2.safetensors")


@pytest.mark.parametrize(
    "files",
    [{}, [], {"a": "../x"}, {"a": "/etc/passwd"}, {"a": ""}, {"a": ".."}, None, {"a": "x", "b": 7}],
)
def test_an_index_leads_nowhere_else(files: object) -> None:
    with pytest.raises(ModelFileError, match="the index of its weights names"):
        read_index(orjson.dumps({"weight_map": files}))


def test_what_is_nested_without_an_end_is_no_bug_of_ours() -> None:
    index = b'{"weight_map":{"a":' + b"[" * 1000 + b"]" * 1000 + b"}}"
    with pytest.raises(ModelFileError, match="the index of its weights names what is no file"):
        read_index(index)
    told = {**LLAMA_8B, "layer_types": [DEEP] * 32}
    assert read_hub_facts(told, 1).notes == (
        "layers of the kind unnamed are counted as if they kept a whole cache",
    )


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from([*LLAMA_8B, "text_config", "kv_lora_rank", "layer_types", "head_dim"]),
        _JSON,
    )
)
def test_generated_configurations_are_read_or_refused(changes: dict[str, object]) -> None:
    try:
        facts = read_hub_facts({**LLAMA_8B, **changes}, 5)
    except ModelFileError:
        return
    assert facts.layers >= 1
    assert facts.weights.total_bytes == 5
    assert cache_bytes(facts, demand()) >= 0


# -- the cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h", "HOME": "/me"}, "/c"),
        ({"HF_HOME": "~/h", "HOME": "/me"}, "/me/h/hub"),
        ({"HF_HUB_CACHE": "~", "HOME": "/me"}, "/me"),
        ({"HF_HOME": "~you/h", "HOME": "/me"}, "~you/h/hub"),
        ({"HUGGINGFACE_HUB_CACHE": "/old", "HF_HOME": "/h", "HOME": "/me"}, "/old"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x", "HOME": "/me"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/me"}, "/x/huggingface/hub"),
        ({"HOME": "/me"}, "/me/.cache/huggingface/hub"),
        ({"HF_HUB_CACHE": "", "HF_HOME": "", "HOME": "/me"}, "/me/.cache/huggingface/hub"),
        ({}, None),
    ],
)
def test_where_downloads_are_kept(environment: dict[str, str], folder: str | None) -> None:
    assert cache_folder(environment) == folder


def test_the_folder_of_a_name() -> None:
    assert repository_folder("org/model-7B") == "models--org--model-7B"
    assert repository_folder("gpt2") == "models--gpt2"

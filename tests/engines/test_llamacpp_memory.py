"""What llama.cpp's flags say of its memory."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.engines.adapter import Launch
from orchd.engines.llamacpp import LlamaCpp
from orchd.engines.memory_demand import Companion, DeviceKind, MemoryDemand
from tests.runner.pools import make_pool

MIB = 1024 * 1024


def demand(*args: str, kind: DeviceKind = "gpu", **pool: Any) -> MemoryDemand:
    return LlamaCpp().memory_demand(make_pool(args=args, **pool), kind)


def test_without_flags_it_is_what_the_adapter_starts_the_engine_with() -> None:
    found = demand(slots=3, ctx=2048)
    assert found == MemoryDemand(
        ctx_tokens=2048,
        slots=3,
        batch_tokens=512,
        is_input_on_device=False,
        unpacks_cache=True,
        fixed=(("CUDA context", 512 * MIB),),
    )


@pytest.mark.parametrize(("kind", "device"), [("cpu", "cpu"), ("gpu", "GPU-0")])
def test_the_batch_is_the_one_on_the_command_line(kind: DeviceKind, device: str) -> None:
    pool = make_pool()
    arguments = LlamaCpp().arguments(pool, Launch(pool.model, device, "127.0.0.1", 1, "key"))
    batch = arguments[arguments.index("--batch-size") + 1]
    assert demand(kind=kind).batch_tokens == int(batch)


def test_on_the_cpu_everything_is_in_ram_and_the_prompt_cache_is_too() -> None:
    found = demand("--n-gpu-layers", "5", "--no-kv-offload", "--cpu-moe", kind="cpu")
    assert found.is_input_on_device
    assert found.is_cache_on_device
    assert (found.layers_on_device, found.expert_layers_on_host) == (None, 0)
    assert found.fixed == (("process", 64 * MIB), ("prompt cache", 256 * MIB))
    assert demand("-cram", "1024", kind="cpu").fixed[1] == ("prompt cache", 1024 * MIB)


@pytest.mark.parametrize(
    ("args", "name", "expected"),
    [
        (("-ctk", "q8_0"), "key_type", "q8_0"),
        (("--cache-type-k", "Q8_0"), "key_type", "q8_0"),
        (("--cache_type_k", "q8_0"), "key_type", "q8_0"),
        (("--cache-type-k=q8_0",), "key_type", "q8_0"),
        (("-ctk", "q8_0", "-ctk", "q4_0"), "key_type", "q4_0"),
        (("-ctv", "q4_0"), "value_type", "q4_0"),
        (("--cache-type-v", "q5_1"), "value_type", "q5_1"),
        (("-ctk",), "key_type", ""),
        (("-ub", "128"), "batch_tokens", 128),
        (("--ubatch-size", "2048"), "batch_tokens", 512),
        (("-b", "2048"), "batch_tokens", 512),
        (("-b", "2048", "-ub", "1024"), "batch_tokens", 1024),
        (("-b", "64"), "batch_tokens", 64),
        (("-b", "many"), "batch_tokens", 512),
        (("-ub", "0"), "batch_tokens", 512),
        (("-ngl", "20"), "layers_on_device", 20),
        (("--gpu-layers", "0"), "layers_on_device", 0),
        (("--n-gpu-layers", "all"), "layers_on_device", None),
        (("-ngl", "auto"), "layers_on_device", None),
        (("-ngl", "-1"), "layers_on_device", None),
        (("-fa", "off"), "is_attention_fused", False),
        (("--flash-attn", "on"), "is_attention_fused", True),
        (("-fa",), "is_attention_fused", True),
        (("-nkvo",), "is_cache_on_device", False),
        (("--no-kv-offload",), "is_cache_on_device", False),
        (("--swa-full",), "keeps_windows_only", False),
        (("-ncmoe", "12"), "expert_layers_on_host", 12),
        (("--n-cpu-moe", "3"), "expert_layers_on_host", 3),
        (("-cmoe",), "expert_layers_on_host", 1 << 20),
        (("-ot", "exps=CPU"), "notes", ("what --override-tensor moves is not reckoned",)),
        (("--metrics",), "notes", ()),
    ],
)
def test_flags_are_read_as_llama_cpp_reads_them(
    args: tuple[str, ...], name: str, expected: object
) -> None:
    assert getattr(demand(*args), name) == expected


def test_a_batch_is_no_larger_than_all_contexts() -> None:
    assert demand(slots=2, ctx=100).batch_tokens == 200


def test_files_beside_the_model_are_named() -> None:
    found = demand("--mmproj", "/P.gguf", "-md", "/d.gguf", "--lora", "/a", "--lora", "/b")
    assert found.companions == (
        Companion("projector", "/P.gguf", has_cache=False),
        Companion("draft model", "/d.gguf", has_cache=True),
        Companion("adapter", "/a", has_cache=False),
        Companion("adapter", "/b", has_cache=False),
    )

"""What vLLM is said to take of a device, and what it is told to take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.config.model import PoolConfig
from orchd.engines.vllm_memory import (
    CONTEXT_BYTES,
    GIB,
    MIB,
    decide_cache_gib,
    decide_share,
    read_demand,
)

POOL = PoolConfig(id="big", engine="vllm", model="org/model", slots=3, ctx=2048)


def with_args(*args: str) -> PoolConfig:
    return replace(POOL, args=args)


def test_on_a_gpu_there_is_a_context_and_graphs_unless_it_is_eager() -> None:
    plain = dict(read_demand(POOL, "gpu").fixed)
    assert set(plain) == {"CUDA context", "libraries' work space", "CUDA graphs"}
    assert "CUDA graphs" not in dict(read_demand(with_args("--enforce-eager"), "gpu").fixed)
    assert [what for what, _ in read_demand(POOL, "cpu").fixed] == ["processes"]


def test_it_keeps_blocks_of_sixteen_computes_in_halves_and_writes_no_masks() -> None:
    demand = read_demand(POOL, "gpu")
    assert (demand.cell_tokens, demand.element_bytes, demand.has_masks) == (16, 2, False)
    assert read_demand(replace(POOL, slots=4096), "gpu").batch_tokens == 4096
    assert (demand.cache_step_bytes, read_demand(POOL, "cpu").cache_step_bytes) == (1, GIB)


def test_flags_that_lead_elsewhere_leave_the_hubs_usual_cache() -> None:
    assert read_demand(POOL, "gpu").is_hub_usual
    for flag in ("--revision=v1", "--download-dir", "--hf-config-path"):
        assert not read_demand(with_args(flag, "x"), "gpu").is_hub_usual


def test_it_takes_all_that_it_is_given_and_without_a_model_most_of_a_card() -> None:
    assert read_demand(POOL, "gpu").takes_all
    assert read_demand(POOL, "gpu").total_fraction == 0.9
    assert read_demand(POOL, "cpu").total_fraction is None
    assert dict(read_demand(POOL, "cpu").unread) != {}


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        ((), "f16"),
        (("--kv-cache-dtype", "fp8_e5m2"), "fp8"),
        (("--kv-cache-dtype=fp8",), "fp8"),
        (("--kv-cache-dtype", "bfloat16"), "f16"),
        (("--dtype", "float32"), "f32"),
        (("--dtype", "half"), "f16"),
        (("--dtype=float",), "f32"),
        (("--dtype", "float32", "--kv-cache-dtype", "fp8"), "fp8"),
    ],
)
def test_the_type_of_its_cache(args: tuple[str, ...], kind: str) -> None:
    demand = read_demand(with_args(*args), "gpu")
    assert (demand.key_type, demand.value_type) == (kind, kind)


def test_a_batch_is_vllms_or_the_users_and_never_smaller_than_the_slots() -> None:
    assert read_demand(POOL, "gpu").batch_tokens == 2048
    told = with_args("--max-num-batched-tokens", "512")
    assert read_demand(told, "gpu").batch_tokens == 512
    assert read_demand(replace(POOL, slots=256), "gpu").batch_tokens == 2048


def test_what_is_not_reckoned_is_told() -> None:
    notes = read_demand(with_args("--enable-lora", "--cpu-offload-gb", "4"), "gpu").notes
    assert notes == (
        "what --enable-lora keeps is not reckoned",
        "what --cpu-offload-gb moves is not reckoned",
    )


@given(
    total_mib=st.integers(4096, 200_000),
    parts=st.floats(0.01, 1),
)
def test_a_share_and_a_context_never_exceed_what_is_reserved(total_mib: int, parts: float) -> None:
    total_bytes = total_mib * MIB
    reserved_bytes = int(total_bytes * parts)
    share = decide_share(reserved_bytes / total_bytes, reserved_bytes)
    assert 0 < share <= 1
    if reserved_bytes > 2 * CONTEXT_BYTES:
        taken = share * total_bytes + CONTEXT_BYTES
        assert taken <= reserved_bytes
        # Rounded down by no more than the last of four digits.
        assert reserved_bytes - taken < total_bytes / 9_999


def test_the_cache_on_the_cpu_is_whole_gib() -> None:
    assert [decide_cache_gib(n, 99 * GIB) for n in (0, 1, GIB, GIB + 1)] == [1, 1, 1, 2]
    assert decide_cache_gib(None, 99 * GIB) == 4
    assert decide_cache_gib(None, 3 * GIB) == 1

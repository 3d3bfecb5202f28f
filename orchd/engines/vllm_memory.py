"""What vLLM does with its device's memory, read from the flags that it is started with.

On a GPU vLLM is told a share of the card, and all of that share it takes: what weights and work
space leave over becomes cache. So what is reckoned here is what it needs to serve the pool's slots;
that is reserved, and the share is told so that it never takes more.

Sources (vLLM 0.30): ``v1/worker/gpu_worker.py`` and ``worker/utils.py`` (the share is of the card's
whole memory, is held against what is free once the CUDA context is there, and since 0.21 holds the
CUDA graphs too; the context is beside it), ``v1/core/kv_cache_utils.py`` (blocks of 16 tokens),
``v1/worker/cpu_worker.py``. Sizes that are guesses say so.
"""

from __future__ import annotations

from orchd.config.model import PoolConfig
from orchd.engines.command_flags import Flags
from orchd.engines.memory_demand import DeviceKind, MemoryDemand

MIB = 1 << 20
GIB = 1 << 30
CONTEXT_BYTES = 512 * MIB
"""The CUDA context of its engine process, which is beside the share (a guess: 300 to 500 MiB are
told of)."""
DEFAULT_CACHE_BYTES = 4 * GIB
"""On the CPU, where nothing is known of the model: vLLM's own default once was that."""
BATCHED_TOKENS = 2048
"""vLLM's default on cards of less than 70 GiB; on larger ones it would be 8192 or more. Told on
purpose: the work space is reckoned from it, and a cancelled prompt is worked on as long as that."""
BLOCK_TOKENS = 16
_LIBRARY_BYTES = 512 * MIB
"""cuBLAS's and FlashInfer's work spaces (a guess: FlashInfer alone takes 128 to 394 MiB)."""
_GRAPHS_BYTES = 512 * MIB
"""CUDA graphs (a guess: users are told of 0.03 to 1 GiB by vLLM's own log)."""
_PROCESS_BYTES = 2 * GIB
"""Two Python processes with torch in each (a guess)."""
_OUTPUT_BYTES = 24
"""For each word of the vocabulary and each slot: the scores in f32 and a copy, sorted, with their
places in i64, and summed up (``v1/sample``)."""
_WHOLE_SHARE = 0.9
"""Of the card, where nothing is known of the model: vLLM's own default for long, 0.92 today."""

BATCHED = ("--max-num-batched-tokens",)
_CACHE_TYPE, _TYPE = ("--kv-cache-dtype",), ("--dtype",)
_EAGER = ("--enforce-eager",)
_ELSEWHERE = ("--revision", "--download-dir", "--hf-config-path")
_UNRECKONED = {
    "--speculative-config": "a draft model of --speculative-config",
    "--enable-lora": "what --enable-lora keeps",
    "--cpu-offload-gb": "what --cpu-offload-gb moves",
    "--quantization": "what --quantization makes smaller",
}


def read_demand(pool: PoolConfig, kind: DeviceKind) -> MemoryDemand:
    """What a replica of this pool takes of a device of that kind."""
    flags = Flags(pool.args)
    is_gpu = kind == "gpu"
    cache_type = _read_cache_type(flags)
    notes = tuple(f"{what} is not reckoned" for f, what in _UNRECKONED.items() if flags.has((f,)))
    return MemoryDemand(
        ctx_tokens=pool.ctx,
        slots=pool.slots,
        batch_tokens=flags.number(BATCHED, batched_tokens(pool)),
        key_type=cache_type,
        value_type=cache_type,
        cell_tokens=BLOCK_TOKENS,
        cache_step_bytes=1 if is_gpu else GIB,
        element_bytes=2,
        output_bytes=_OUTPUT_BYTES,
        has_masks=False,
        fixed=_gpu_parts(flags) if is_gpu else (("processes", _PROCESS_BYTES),),
        unread=(("cache of a model that is not here yet", DEFAULT_CACHE_BYTES),),
        notes=notes,
        total_fraction=_WHOLE_SHARE if is_gpu else None,
        is_hub_usual=not flags.has(_ELSEWHERE),
        takes_all=True,
    )


def batched_tokens(pool: PoolConfig) -> int:
    """How many tokens it computes at once; vLLM refuses fewer than slots."""
    return max(BATCHED_TOKENS, pool.slots)


def decide_share(share: float, reserved_bytes: int) -> float:
    """``--gpu-memory-utilization``: what is reserved, less the context that comes on top, as a
    share of the card; rounded down, and never 0, which vLLM does not take."""
    of_card = share * (1 - CONTEXT_BYTES / reserved_bytes)
    return min(max(int(of_card * 10_000), 1), 10_000) / 10_000


def decide_cache_gib(cache_bytes: int | None, reserved_bytes: int) -> int:
    """``VLLM_CPU_KVCACHE_SPACE``: whole GiB, and at least one, for 0 is all there is."""
    if cache_bytes is None:
        return max(min(DEFAULT_CACHE_BYTES, reserved_bytes // 2) // GIB, 1)
    return max(-(-cache_bytes // GIB), 1)


def _gpu_parts(flags: Flags) -> tuple[tuple[str, int], ...]:
    graphs = () if flags.has(_EAGER) else (("CUDA graphs", _GRAPHS_BYTES),)
    return ("CUDA context", CONTEXT_BYTES), ("libraries' work space", _LIBRARY_BYTES), *graphs


def _read_cache_type(flags: Flags) -> str:
    """The type that the cache is kept in. ``auto`` is the model's own, of which f32 is loaded as
    f16 unless the user has said otherwise."""
    told = flags.text(_CACHE_TYPE, "auto")
    if told == "auto":
        return "f32" if flags.text(_TYPE, "auto") in ("float32", "float") else "f16"
    return "fp8" if told.startswith(("fp8", "int8", "nvfp4", "int4")) else "f16"

"""What llama.cpp does with its device's memory, read from the flags that it is started with.

Sources: llama.cpp's ``common/arg.cpp`` for the flags, its ``llama-model`` for what stays on the
host; measurements on build 11549 where noted.
"""

from __future__ import annotations

from orchd.config.model import PoolConfig
from orchd.engines.command_flags import Flags
from orchd.engines.memory_demand import Companion, DeviceKind, MemoryDemand

BATCH_TOKENS: dict[DeviceKind, int] = {"cpu": 256, "gpu": 512}
"""A cancelled prompt frees its slot only after the current batch (measured)."""
CACHE_RAM_MIB = 256
"""llama.cpp's prompt cache grows to 8 GiB of host memory unless it is bounded (measured)."""
_UBATCH_TOKENS = 512
"""What it computes at once at most, unless told otherwise."""
_MIB = 1024 * 1024
_CUDA_BYTES = 512 * _MIB
"""The CUDA context, cuBLAS's work space and the pools that grow with use. Ollama allows 457 MiB
for the same (its ``cudaMinimumMemory``)."""
_PROCESS_BYTES = 64 * _MIB
"""The program itself, its tokenizer and its threads; 50 to 60 MiB were measured."""

_BATCH, _UBATCH = ("-b", "--batch-size"), ("-ub", "--ubatch-size")
_KEY_TYPE, _VALUE_TYPE = ("-ctk", "--cache-type-k"), ("-ctv", "--cache-type-v")
_LAYERS = ("-ngl", "--gpu-layers", "--n-gpu-layers")
_FLASH = ("-fa", "--flash-attn")
_NO_KV_OFFLOAD = ("-nkvo", "--no-kv-offload")
_EXPERTS, _EXPERT_LAYERS = ("-cmoe", "--cpu-moe"), ("-ncmoe", "--n-cpu-moe")
_CACHE_RAM = ("-cram", "--cache-ram")
_PROJECTOR = ("-mm", "--mmproj")
_DRAFT = ("-md", "--model-draft", "--spec-draft-model")
_LORA = ("--lora",)
_OVERRIDE = ("-ot", "--override-tensor")
_MANY_LAYERS = 1 << 20


def read_demand(pool: PoolConfig, kind: DeviceKind) -> MemoryDemand:
    """What a replica of this pool takes of a device of that kind."""
    flags = _Flags(pool.args)
    is_gpu = kind == "gpu"
    batch = min(flags.number(_BATCH, BATCH_TOKENS[kind]), pool.ctx * pool.slots)
    ubatch = flags.number(_UBATCH, _UBATCH_TOKENS) or batch
    experts_on_host = _MANY_LAYERS if flags.has(_EXPERTS) else flags.number(_EXPERT_LAYERS, 0)
    return MemoryDemand(
        ctx_tokens=pool.ctx,
        slots=pool.slots,
        batch_tokens=min(batch, ubatch),
        key_type=flags.text(_KEY_TYPE, "f16"),
        value_type=flags.text(_VALUE_TYPE, "f16"),
        layers_on_device=flags.layers() if is_gpu else None,
        expert_layers_on_host=experts_on_host if is_gpu else 0,
        # The table of tokens is looked up by the CPU, wherever the layers are (llama-model).
        is_input_on_device=not is_gpu,
        is_cache_on_device=not (is_gpu and flags.has(_NO_KV_OFFLOAD)),
        unpacks_cache=is_gpu,
        is_attention_fused=flags.text(_FLASH, "auto") != "off",
        keeps_windows_only=not flags.has(("--swa-full",)),
        fixed=(("CUDA context", _CUDA_BYTES),) if is_gpu else _host_parts(flags),
        companions=tuple(flags.companions()),
        notes=("what --override-tensor moves is not reckoned",) if flags.has(_OVERRIDE) else (),
    )


def _host_parts(flags: _Flags) -> tuple[tuple[str, int], ...]:
    cache_mib = flags.number(_CACHE_RAM, CACHE_RAM_MIB)
    return ("process", _PROCESS_BYTES), ("prompt cache", cache_mib * _MIB)


class _Flags(Flags):
    """llama.cpp's own."""

    def layers(self) -> int | None:
        """None for all of them, also where the engine is to find out by itself."""
        text = self.text(_LAYERS, "all")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None

    def companions(self) -> list[Companion]:
        kinds = (("projector", _PROJECTOR), ("draft model", _DRAFT), ("adapter", _LORA))
        return [
            Companion(what, path, has_cache=names is _DRAFT)
            for what, names in kinds
            for name in names
            for path in self.every(name)
            if path
        ]

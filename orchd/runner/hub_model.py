"""What a Hugging Face model's ``config.json`` means for memory, and what its weights' files say.

Where a file leaves something open (which layers have a window, what a layer of an unknown kind
keeps), the larger reading is taken; what is not reckoned at all is told in a note.

Sources: ``transformers``' configuration classes for the keys and their defaults; the safetensors
format (eight bytes with the header's length, a JSON header with each tensor's ``data_offsets``);
vLLM's ``kv_cache_interface`` for what a layer keeps, of multi-head latent attention one row of
``kv_lora_rank + qk_rope_head_dim`` for all heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from orchd.runner.gguf import Weights
from orchd.runner.gguf_cursor import ModelFileError
from orchd.runner.model_facts import LayerCache, ModelFacts

LENGTH_BYTES = 8
"""What a safetensors file begins with: its header's length, little-endian."""
HEADER_BYTES_MAX = 100_000_000
"""The format allows no longer header."""
_LAYERS_MAX = 4096
_SIZE_MAX = 1 << 31
_NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where a model that also sees or hears keeps what its language model is like."""
_NAMES: Mapping[str, tuple[str, ...]] = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "multi_query_group_num"),
    "head_dim": ("kv_channels",),
    "intermediate_size": ("ffn_hidden_size", "n_inner", "ffn_dim"),
    "num_experts_per_tok": ("moe_topk", "num_experts_per_token"),
    "moe_intermediate_size": ("expert_ffn_hidden_size",),
    "vocab_size": ("padded_vocab_size",),
}
"""Older names of the same."""
_FULL = frozenset({"full_attention", "attention", "global", "global_attention"})
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}


def read_config(content: bytes) -> dict[str, Any]:
    """``config.json`` as a table. Raises ModelFileError."""
    try:
        config = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ModelFileError("is damaged: its config.json is not JSON") from error
    if not isinstance(config, dict):
        raise ModelFileError("is damaged: its config.json is no table")
    return config


def read_hub_facts(config: Mapping[str, Any], weights_bytes: int) -> ModelFacts:
    """A model, as far as memory goes. Raises ModelFileError where that cannot be told."""
    keys = _Keys(_find_language_model(config))
    layers = keys.number("num_hidden_layers", most=_LAYERS_MAX)
    if layers < 1:
        raise ModelFileError("names no number of layers (num_hidden_layers in its config.json)")
    caches, window_tokens, notes = _read_caches(keys, layers)
    if keys.config is not config:
        notes = (*notes, "what it needs for images or sound is not reckoned")
    vocabulary = keys.number("vocab_size")
    return ModelFacts(
        architecture=_read_architecture(config),
        embedding=keys.number("hidden_size"),
        heads=keys.number("num_attention_heads"),
        feed_forward=_feed_forward(keys),
        vocabulary=vocabulary,
        caches=caches,
        window_tokens=window_tokens,
        state_bytes=0,
        weights=Weights(weights_bytes, vocabulary=vocabulary),
        notes=notes,
    )


class _Keys:
    """The keys of a language model, held against what can be."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config

    def number(self, name: str, most: int = _SIZE_MAX) -> int:
        """A count or a size; 0 where it is not said. Of one for each layer, the largest."""
        for each in (name, *_NAMES.get(name, ())):
            if (value := self.config.get(each)) is not None:
                values = value if isinstance(value, list) else [value]
                return max((_hold(each, item, most) for item in values), default=0)
        return 0

    def words(self, name: str, count: int) -> tuple[str, ...]:
        """One word for each layer, "unnamed" for what is none; empty where it does not say them
        all."""
        value = self.config.get(name)
        if not isinstance(value, list) or len(value) < count:
            return ()
        return tuple(item if isinstance(item, str) else "unnamed" for item in value[:count])


def _hold(name: str, value: object, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        # What is nested may be so deeply that it cannot be shown.
        told = "no number" if isinstance(value, list | dict) else repr(value)[:40]
        raise ModelFileError(f"is damaged: {name} in its config.json is {told}")
    return value


def _find_language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part that says how the language model is built, the whole where there are no parts."""
    for _ in _NESTED:  # one in another, as a model that thinks and talks has them
        parts = (config.get(name) for name in _NESTED)
        part = next((part for part in parts if isinstance(part, dict) and part), None)
        if part is None:
            break
        config = part
    return config


def _read_architecture(config: Mapping[str, Any]) -> str:
    match config:
        case {"architectures": [str(name), *_]} | {"model_type": str(name)} if name.isprintable():
            return name[:100]
        case _:
            return "unknown"


def _feed_forward(keys: _Keys) -> int:
    """The widest inner row of one token.

    In a layer of experts a token passes several, and what each of them makes of it is kept until
    they are added up (vLLM's ``fused_moe``); of three inner rows that are reckoned, that is one.
    """
    dense = keys.number("intermediate_size") or 4 * keys.number("hidden_size")
    used = keys.number("num_experts_per_tok")
    if not used:
        return dense
    expert = keys.number("moe_intermediate_size") or keys.number("intermediate_size")
    shared = keys.number("shared_expert_intermediate_size")
    shared = shared or keys.number("n_shared_experts") * expert
    return max(dense, used * (expert + -(-keys.number("hidden_size") // 3)) + shared)


# -- what layers keep of tokens ------------------------------------------------------------------


def _read_caches(keys: _Keys, layers: int) -> tuple[tuple[LayerCache, ...], int, tuple[str, ...]]:
    """Each layer's cache, the window in tokens, and what is to be said of them."""
    key_size, value_size = _read_row(keys)
    kinds = keys.words("layer_types", layers) or ("full_attention",) * layers
    windows = {_WINDOWS[kind] for kind in kinds if kind in _WINDOWS}
    window_tokens = max((keys.number(name) for name in windows), default=0)
    caches = tuple(
        LayerCache(key_size, value_size, kind in _WINDOWS and window_tokens > 0) for kind in kinds
    )
    # The last so many use the cache of a layer before them (Gemma 3n).
    sharing = min(keys.number("num_kv_shared_layers"), layers)
    caches = (*caches[: layers - sharing], *(LayerCache(0, 0),) * sharing)
    unknown = sorted({kind[:40] for kind in kinds if kind not in _FULL and kind not in _WINDOWS})
    notes = (f"layers of the kind {', '.join(unknown)} are counted as if they kept a whole cache",)
    return caches, window_tokens, notes if unknown else ()


def _read_row(keys: _Keys) -> tuple[int, int]:
    """Elements of the key and of the value that a layer keeps of one token."""
    if latent := keys.number("kv_lora_rank"):
        return latent + keys.number("qk_rope_head_dim"), 0
    heads = keys.number("num_attention_heads")
    if heads < 1:
        raise ModelFileError("names no number of heads (num_attention_heads in its config.json)")
    each = keys.number("head_dim") or keys.number("hidden_size") // heads
    row = each * (keys.number("num_key_value_heads") or heads)
    return row, row


# -- weights -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Index:
    """``model.safetensors.index.json``: which files the weights are in."""

    files: tuple[str, ...]


def read_index(content: bytes) -> Index:
    """Raises ModelFileError. Names that lead out of the folder are none."""
    try:
        told = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ModelFileError("is damaged: the index of its weights is not JSON") from error
    match told:
        case {"weight_map": {**tensors}} if tensors:
            files = {file for file in tensors.values() if isinstance(file, str)}
        case _:
            raise ModelFileError("is damaged: the index of its weights names no file")
    if not all(isinstance(file, str) for file in tensors.values()):
        raise ModelFileError("is damaged: the index of its weights names what is no file")
    if any("/" in file or "\0" in file or file in ("", ".", "..") for file in files):
        raise ModelFileError("is damaged: the index of its weights names a file elsewhere")
    return Index(tuple(sorted(files)))


def read_header_bytes(beginning: bytes, file_bytes: int) -> int:
    """How long a safetensors header is, by the first bytes of its file. Raises ModelFileError."""
    if len(beginning) < LENGTH_BYTES:
        raise ModelFileError("is cut short: it has no header")
    header_bytes = int.from_bytes(beginning[:LENGTH_BYTES], "little")
    if header_bytes > HEADER_BYTES_MAX:
        raise ModelFileError("is damaged: it is no safetensors file")
    if LENGTH_BYTES + header_bytes > file_bytes:
        raise ModelFileError("is cut short in its header")
    return header_bytes


def check_header(header: bytes, file_bytes: int) -> None:
    """Raises ModelFileError where the file is shorter than its tensors."""
    try:
        tensors = orjson.loads(header)
    except orjson.JSONDecodeError as error:
        raise ModelFileError("is damaged: its header is not JSON") from error
    if not isinstance(tensors, dict):
        raise ModelFileError("is damaged: its header is no table")
    ends = [0]
    for name, tensor in tensors.items():
        match tensor:
            case _ if name == "__metadata__":
                continue
            case {"data_offsets": [int(begin), int(end)]} if 0 <= begin <= end:
                ends.append(end)
            case _:
                raise ModelFileError("is damaged: its header tells of a tensor that is none")
    missing = LENGTH_BYTES + len(header) + max(ends) - file_bytes
    if missing > 0:
        raise ModelFileError(f"is cut short: {missing} bytes are missing")


# -- the cache of what was downloaded ------------------------------------------------------------


_CACHES = (
    ("HF_HUB_CACHE", ""),
    ("HUGGINGFACE_HUB_CACHE", ""),
    ("HF_HOME", "/hub"),
    ("XDG_CACHE_HOME", "/huggingface/hub"),
)
"""What names the folder, and where the cache is below it; ``~`` is the home in each."""


def cache_folder(environment: Mapping[str, str]) -> str | None:
    """Where an engine of that environment keeps what it downloads; None where it has no home.

    Source: ``huggingface_hub``'s ``constants``.
    """
    home = environment.get("HOME")
    for name, below in _CACHES:
        if folder := environment.get(name):
            is_at_home = folder == "~" or folder.startswith("~/")
            return f"{home or ''}{folder[1:]}{below}" if is_at_home else f"{folder}{below}"
    return f"{home}/.cache/huggingface/hub" if home else None


def repository_folder(name: str) -> str:
    """A model's folder in that cache: ``models--org--name``."""
    return f"models--{name.replace('/', '--')}"

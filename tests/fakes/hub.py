"""Model folders as a hub's tools leave them, without a byte of weights in them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

LLAMA_8B: Mapping[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
"""Of Llama 3 8B, as it was published."""
SMALL: Mapping[str, object] = {
    **LLAMA_8B,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "vocab_size": 1000,
}


def write_tensors(path: Path, size_bytes: int) -> Path:
    """A safetensors file whose one tensor takes so much, and no room on the disk."""
    tensor = {"dtype": "U8", "shape": [size_bytes], "data_offsets": [0, size_bytes]}
    header = json.dumps({"__metadata__": {"format": "pt"}, "model.weight": tensor}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size_bytes)
    return path


def write_folder(
    folder: Path,
    config: Mapping[str, object] = SMALL,
    weights_bytes: int = 1 << 20,
    parts: int = 1,
) -> Path:
    """A model's folder; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if parts == 1:
        write_tensors(folder / "model.safetensors", weights_bytes)
        return folder
    names = [f"model-{n + 1:05}-of-{parts:05}.safetensors" for n in range(parts)]
    for name in names:
        write_tensors(folder / name, weights_bytes // parts)
    index = {
        "metadata": {"total_size": weights_bytes},
        "weight_map": {f"model.layers.{n}": name for n, name in enumerate(names)},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_cached(cache: Path, name: str, **model: object) -> Path:
    """A model in a hub's cache, linked there as huggingface_hub does; returns its snapshot."""
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    revision = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs" / "main").write_text(revision)
    blobs = write_folder(repository / "blobs", **model)  # type: ignore[arg-type]
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(blob)
    return snapshot

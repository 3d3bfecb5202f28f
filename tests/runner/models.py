"""Shapes of published models, and GGUF heads like those of their files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from orchd.runner.gguf import read_head
from orchd.runner.model_facts import ModelFacts, read_facts
from orchd.runner.tensor_types import TENSOR_TYPES
from tests.fakes.gguf import ALIGNMENT, TENSOR_F32, TENSOR_Q8_0, Tensor, Value, write_head

Matrices = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's hyperparameters; the source of each is its config.json."""

    architecture: str
    layers: int
    embedding: int
    heads: int
    kv_heads: int
    feed_forward: int
    vocabulary: int
    head_size: int = 0
    """0: embedding / heads, and the file does not say it."""
    is_tied: bool = False
    """One matrix serves for input and output."""
    experts: int = 0
    """Of which a token passes two."""
    more: Mapping[str, Value] = field(default_factory=dict)
    """Further keys, without the architecture in front."""

    @property
    def own_head_size(self) -> int:
        return self.head_size or self.embedding // self.heads

    def facts(self) -> ModelFacts:
        return facts_of(self.head())

    def head(self) -> bytes:
        """The head of its file at Q8_0: every matrix of that type, every vector f32."""
        return write_head(self.values(), place_tensors(self.matrices()))

    def values(self) -> dict[str, Value]:
        own: dict[str, Value] = {
            "block_count": self.layers,
            "embedding_length": self.embedding,
            "feed_forward_length": self.feed_forward,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "attention.layer_norm_rms_epsilon": 1e-5,
        }
        if self.head_size:
            own |= {"attention.key_length": self.head_size}
            own |= {"attention.value_length": self.head_size}
        if self.experts:
            own |= {"expert_count": self.experts, "expert_used_count": 2}
        own |= self.more
        named = {f"{self.architecture}.{name}": value for name, value in own.items()}
        return {"general.architecture": self.architecture, **named}

    def matrices(self) -> Matrices:
        e, f = self.embedding, self.feed_forward
        q, kv = self.heads * self.own_head_size, self.kv_heads * self.own_head_size
        yield "token_embd.weight", (e, self.vocabulary)
        if not self.is_tied:
            yield "output.weight", (e, self.vocabulary)
        yield "output_norm.weight", (e,)
        for n in range(self.layers):
            yield f"blk.{n}.attn_norm.weight", (e,)
            yield f"blk.{n}.ffn_norm.weight", (e,)
            yield f"blk.{n}.attn_q.weight", (e, q)
            yield f"blk.{n}.attn_k.weight", (e, kv)
            yield f"blk.{n}.attn_v.weight", (e, kv)
            yield f"blk.{n}.attn_output.weight", (q, e)
            if self.experts:
                yield f"blk.{n}.ffn_gate_inp.weight", (e, self.experts)
                yield f"blk.{n}.ffn_gate_exps.weight", (e, f, self.experts)
                yield f"blk.{n}.ffn_down_exps.weight", (f, e, self.experts)
                yield f"blk.{n}.ffn_up_exps.weight", (e, f, self.experts)
            else:
                yield f"blk.{n}.ffn_gate.weight", (e, f)
                yield f"blk.{n}.ffn_down.weight", (f, e)
                yield f"blk.{n}.ffn_up.weight", (e, f)


@dataclass(frozen=True, slots=True)
class DeepSeekV2Lite:
    """Multi-head latent attention, and a first layer without experts; as a file of today has it."""

    is_latent: bool = True
    """False: as a file from before llama.cpp kept the latent row has it."""

    def facts(self) -> ModelFacts:
        return facts_of(write_head(self.values(), place_tensors(self.matrices())))

    def values(self) -> dict[str, Value]:
        own: dict[str, Value] = {
            "block_count": 27,
            "embedding_length": 2048,
            "feed_forward_length": 10944,
            "attention.head_count": 16,
            "attention.head_count_kv": 1 if self.is_latent else 16,
            "attention.kv_lora_rank": 512,
            "attention.key_length": 576 if self.is_latent else 192,
            "attention.value_length": 512 if self.is_latent else 128,
            "expert_count": 64,
            "expert_used_count": 6,
            "expert_feed_forward_length": 1408,
        }
        if self.is_latent:
            own |= {"attention.key_length_mla": 192, "attention.value_length_mla": 128}
        named = {f"deepseek2.{name}": value for name, value in own.items()}
        return {"general.architecture": "deepseek2", **named}

    def matrices(self) -> Matrices:
        e, f = 2048, 1408
        yield "token_embd.weight", (e, 102_400)
        yield "output.weight", (e, 102_400)
        for n in range(27):
            yield f"blk.{n}.attn_q.weight", (e, 16 * 192)
            yield f"blk.{n}.attn_kv_a_mqa.weight", (e, 576)
            yield f"blk.{n}.attn_kv_b.weight", (512, 16 * 256)
            yield f"blk.{n}.attn_output.weight", (16 * 128, e)
            if n == 0:
                yield f"blk.{n}.ffn_gate.weight", (e, 10_944)
                yield f"blk.{n}.ffn_down.weight", (10_944, e)
                yield f"blk.{n}.ffn_up.weight", (e, 10_944)
                continue
            for part, experts in (("exps", 64), ("shexp", 2)):
                yield f"blk.{n}.ffn_gate_{part}.weight", (e, f, experts)
                yield f"blk.{n}.ffn_down_{part}.weight", (f, e, experts)
                yield f"blk.{n}.ffn_up_{part}.weight", (e, f, experts)


LLAMA_3_8B = Shape("llama", 32, 4096, 32, 8, 14_336, 128_256)
LLAMA_3_70B = Shape("llama", 80, 8192, 64, 8, 28_672, 128_256)
MISTRAL_7B = Shape("llama", 32, 4096, 32, 8, 14_336, 32_768)
MIXTRAL_8X7B = Shape("llama", 32, 4096, 32, 8, 14_336, 32_000, experts=8)
QWEN_2_5_7B = Shape("qwen2", 28, 3584, 28, 4, 18_944, 152_064)
QWEN_2_5_32B = Shape("qwen2", 64, 5120, 40, 8, 27_648, 152_064)
PHI_3_MINI = Shape(
    *("phi3", 32, 3072, 32, 32, 8192, 32_064), more={"attention.sliding_window": 2047}
)
SMOLLM2_135M = Shape("llama", 30, 576, 9, 3, 1536, 49_152, is_tied=True)
GEMMA_2_9B = Shape(
    *("gemma2", 42, 3584, 16, 8, 14_336, 256_000),
    head_size=256,
    is_tied=True,
    more={"attention.sliding_window": 4096},
)
GEMMA_3_12B = Shape(
    *("gemma3", 48, 3840, 16, 8, 15_360, 262_144),
    head_size=256,
    is_tied=True,
    more={"attention.sliding_window": 1024},
)
MAMBA_1_4B: dict[str, Value] = {
    "general.architecture": "mamba",
    "mamba.block_count": 48,
    "mamba.embedding_length": 2048,
    "mamba.attention.head_count": 0,
    "mamba.ssm.conv_kernel": 4,
    "mamba.ssm.inner_size": 4096,
    "mamba.ssm.state_size": 16,
}


def place_tensors(matrices: Matrices) -> list[Tensor]:
    """One behind the other, as a file holds them."""
    placed, offset = [], 0
    for name, dims in matrices:
        type_id = TENSOR_Q8_0 if len(dims) > 1 else TENSOR_F32
        placed.append(Tensor(name, dims, type_id, offset))
        size_bytes = TENSOR_TYPES[type_id].row_bytes(math.prod(dims))
        offset += -(-size_bytes // ALIGNMENT) * ALIGNMENT
    return placed


def facts_of(head: bytes, file_bytes: int = 1 << 50) -> ModelFacts:
    """Of a file with this head and whatever behind it."""
    return read_facts([read_head(lambda at, size: head[at : at + size], file_bytes)])

"""The reader of GGUF heads: what it keeps, what it passes over, what it refuses, what it costs."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.gguf import KEPT_ITEMS_MAX, KEYS_MAX, TENSORS_MAX, Head, read_head
from orchd.runner.gguf_cursor import (
    HEAD_BYTES_MAX,
    TEXT_BYTES_MAX,
    WINDOW_BYTES,
    Cursor,
    ModelFileError,
)
from orchd.runner.model_facts import read_facts
from orchd.runner.tensor_types import BY_NAME, TENSOR_TYPES
from tests.fakes.gguf import (
    ARRAY,
    F64,
    I8,
    I16,
    I64,
    STRING,
    U8,
    U16,
    U64,
    Tensor,
    Typed,
    Value,
    write_head,
)

ARCHITECTURE: tuple[str, Value] = ("general.architecture", "llama")
LAYERS: tuple[str, Value] = ("llama.block_count", 2)
Q4_K, UNKNOWN = 12, 999
TENSORS = (
    Tensor("token_embd.weight", (256, 1000), Q4_K),
    Tensor("blk.0.attn_q.weight", (256, 256), Q4_K, 144_000),
    Tensor("blk.1.ffn_up_exps.weight", (256, 512, 4), Q4_K, 180_864),
    Tensor("blk.1.ffn_norm.weight", (256,), 0, 475_776),
    Tensor("output.weight", (256, 1000), 1, 476_800),
)
DATA_BYTES = 476_800 + 512_000


class File:
    """Bytes to be read, and how much of them was."""

    def __init__(self, content: bytes, size_bytes: int | None = None) -> None:
        self.content = content
        self.size_bytes = len(content) if size_bytes is None else size_bytes
        self.filler = b"\0"
        """What is behind the content, over and over, where the size goes beyond it."""
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        assert 0 < size <= max(WINDOW_BYTES, TEXT_BYTES_MAX)
        assert offset >= 0 and offset + size <= min(self.size_bytes, HEAD_BYTES_MAX)
        content = self.content[offset : offset + size]
        missing = size - len(content) if self.size_bytes > len(self.content) else 0
        begin = max(offset - len(self.content), 0) % len(self.filler)
        filler = self.filler * (2 + missing // len(self.filler))
        return content + filler[begin : begin + missing]

    def head(self) -> Head:
        return read_head(self.read, self.size_bytes)

    @property
    def bytes_read(self) -> int:
        return sum(size for _, size in self.reads)


def read(content: bytes) -> Head:
    return File(content).head()


def whole(values: Sequence[tuple[str, Value]], tensors: Sequence[Tensor] = ()) -> bytes:
    """A file with the bytes of its tensors."""
    return write_head(values, tensors) + bytes(DATA_BYTES + 32 if tensors else 0)


# -- what it keeps -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_format_says_the_same(version: int) -> None:
    head = read(
        write_head([ARCHITECTURE, LAYERS], TENSORS, version=version) + bytes(DATA_BYTES + 32)
    )
    assert head.values == {"general.architecture": "llama", "llama.block_count": 2}
    weights = head.weights
    assert weights.total_bytes == 144_000 + 36_864 + 294_912 + 1024 + 512_000
    assert (weights.input_bytes, weights.has_output, weights.vocabulary) == (144_000, True, 1000)
    assert weights.layer_bytes == ((0, 36_864), (1, 294_912 + 1024))
    assert weights.expert_bytes == ((1, 294_912),)
    assert weights.unknown_types == ()


@pytest.mark.parametrize("type_id", [U8, I8, U16, I16, U64, I64])
def test_numbers_of_every_width_are_read(type_id: int) -> None:
    head = read(write_head([ARCHITECTURE, ("llama.block_count", Typed(type_id, 7))]))
    assert head.values["llama.block_count"] == 7


def test_an_array_with_an_item_for_each_layer_is_kept() -> None:
    head = read(write_head([("llama.attention.head_count_kv", [8, 0, 8, 4])]))
    assert head.values["llama.attention.head_count_kv"] == (8, 0, 8, 4)


def test_of_a_tokenizer_only_the_number_of_tokens_is_kept() -> None:
    values: list[tuple[str, Value]] = [
        ("tokenizer.ggml.tokens", ["a", "", "ccc"]),
        ("tokenizer.ggml.scores", Typed(ARRAY, [0.5] * 3, F64)),
        ("tokenizer.chat_template", "{% for %}\0"),
        ("llama.attention.note", ""),
        LAYERS,
    ]
    assert read(write_head(values)).values == {"tokenizer.ggml.tokens": 3, "llama.block_count": 2}


def test_an_array_that_is_too_long_to_be_kept_is_passed_over() -> None:
    key = "llama.attention.head_count"
    for items, kept in [(KEPT_ITEMS_MAX, (1,) * KEPT_ITEMS_MAX), (KEPT_ITEMS_MAX + 1, 4097)]:
        head = read(write_head([(key, [1] * items), LAYERS]))
        assert head.values == {key: kept, "llama.block_count": 2}


def test_a_type_that_is_not_known_makes_the_files_size_count() -> None:
    tensors = (*TENSORS, Tensor("blk.0.x", (64,), UNKNOWN, DATA_BYTES))
    content = write_head([ARCHITECTURE], tensors) + bytes(DATA_BYTES + 500)
    weights = read(content).weights
    assert weights.unknown_types == (UNKNOWN,)
    assert DATA_BYTES <= weights.total_bytes <= DATA_BYTES + 500


def test_the_block_sizes_are_those_of_the_bits_that_the_types_are_told_to_have() -> None:
    """Bits a weight, as llama.cpp's table of quantisations tells them."""
    told = {
        "f32": 32,
        "f16": 16,
        "bf16": 16,
        "q8_0": 8.5,
        "q4_0": 4.5,
        "q4_1": 5,
        "q5_0": 5.5,
        "q5_1": 6,
        "q2_k": 2.625,
        "q3_k": 3.4375,
        "q4_k": 4.5,
        "q5_k": 5.5,
        "q6_k": 6.5625,
        "iq1_s": 1.5625,
        "iq1_m": 1.75,
        "iq2_xxs": 2.0625,
        "iq2_xs": 2.3125,
        "iq2_s": 2.5625,
        "iq3_xxs": 3.0625,
        "iq3_s": 3.4375,
        "iq4_xs": 4.25,
        "iq4_nl": 4.5,
        "mxfp4": 4.25,
        "tq1_0": 1.6875,
        "tq2_0": 2.0625,
        "nvfp4": 4.5,
    }
    for name, bits in told.items():
        kind = BY_NAME[name]
        assert kind.block_bytes * 8 / kind.block_elements == bits
    assert TENSOR_TYPES[39].name == "mxfp4"
    assert BY_NAME["q8_0"].row_bytes(33) == 68


# -- what it costs -----------------------------------------------------------------------------


def test_what_is_passed_over_is_not_read() -> None:
    """A template of 10 MiB and scores of 8 MiB in front of what is wanted."""
    values: list[tuple[str, Value]] = [
        ("tokenizer.chat_template", "x" * (10 << 20)),
        ("tokenizer.ggml.scores", Typed(ARRAY, [1.0] * (1 << 20), F64)),
        LAYERS,
    ]
    file = File(write_head(values))
    assert file.head().values == {"llama.block_count": 2}
    assert file.bytes_read <= 4 * WINDOW_BYTES


def test_a_whole_tokenizer_is_walked_through_in_order_once() -> None:
    tokens = [f"token{n}" for n in range(100_000)]
    file = File(write_head([("tokenizer.ggml.tokens", tokens), LAYERS], TENSORS), 1 << 40)
    assert file.head().values == {"tokenizer.ggml.tokens": 100_000, "llama.block_count": 2}
    offsets = [offset for offset, _ in file.reads]
    assert offsets == sorted(offsets)
    assert file.bytes_read <= len(file.content) + 2 * WINDOW_BYTES


def test_a_head_that_has_no_end_is_given_up_at_its_bound() -> None:
    """A file of 1 TiB: tokens of 100 kB each, of which the bytes are zeros."""
    tokens = write_head([("tokenizer.ggml.tokens", Typed(ARRAY, [], STRING))])[:-8]
    file = File(tokens + struct.pack("<Q", 1000), 1 << 40)
    file.filler = struct.pack("<Q", 99_992) + bytes(99_992)
    with pytest.raises(ModelFileError, match="its head has more than 67108864 bytes"):
        file.head()
    assert file.bytes_read <= HEAD_BYTES_MAX


# -- what it refuses ---------------------------------------------------------------------------


def claim(*, tensors: int = 0, keys: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, keys) + bytes(100)


def array_of(type_id: int, count: int) -> bytes:
    whole = write_head([("llama.attention.x", [1])])
    return whole[:-16] + struct.pack("<IQ", type_id, count) + bytes(64)


HUGE = 1 << 60
HOSTILE = {
    "empty": (b"", "is empty"),
    "short": (b"GG", "is not a GGUF file"),
    "another format": (b"ggjt" + bytes(100), "is not a GGUF file (it does not begin with GGUF)"),
    "zeros": (bytes(1000), "is not a GGUF file"),
    "magic alone": (b"GGUF", "is cut short: its head goes on beyond its end at 4 bytes"),
    "no version": (b"GGUF" + struct.pack("<IQQ", 0, 0, 0), "GGUF file of version 0"),
    "later version": (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "of version 4, and orchd reads 1 to"),
    "big-endian": (write_head([LAYERS], order=">"), "is a big-endian GGUF file; take the little"),
    "many keys": (claim(keys=HUGE), f"is damaged: it claims {HUGE} keys"),
    "a key too many": (claim(keys=KEYS_MAX + 1), f"it claims {KEYS_MAX + 1} keys"),
    "more keys than bytes": (claim(keys=KEYS_MAX), "is cut short"),
    "many tensors": (claim(tensors=HUGE), f"is damaged: it claims {HUGE} tensors"),
    "more tensors than bytes": (claim(tensors=TENSORS_MAX), "is cut short"),
    "a key of no letters": (claim(keys=1), "a key that is empty or holds a NUL"),
    "a NUL in a key": (write_head([("a\0b", 1)]), "a key that is empty or holds a NUL"),
    "a long key": (write_head([("k" * (TEXT_BYTES_MAX + 1), 1)]), "a key of 65536 bytes"),
    "a key twice": (write_head([LAYERS, LAYERS]), "it has the key 'llama.block_count' twice"),
    "an unknown type": (
        write_head([LAYERS])[:-8] + struct.pack("<II", 13, 0),
        "'llama.block_count' has the unknown type 13",
    ),
    "a nested array": (array_of(ARRAY, 1), "'llama.attention.x' is an array of the type 9"),
    "an array of nothing known": (array_of(77, 1), "'llama.attention.x' is an array of the type"),
    "a long array": (array_of(4, HUGE), f"it claims {HUGE} items of 'llama.attention.x'"),
    "many strings": (array_of(STRING, HUGE), f"it claims {HUGE} items of 'llama.attention.x'"),
    "an array beyond the end": (array_of(4, 1000), "is cut short"),
    "a long string": (
        write_head([("x", "y")])[:-9] + struct.pack("<Q", HUGE) + b"y",
        "is cut short",
    ),
    "a long architecture": (
        write_head([("general.architecture", "y")])[:-9] + struct.pack("<Q", HUGE) + b"y",
        "a value of 'general.architecture' of",
    ),
    "many dimensions": (
        whole([], [Tensor("t", (1, 1, 1, 1, 1))]),
        "'t' has 5 dimensions",
    ),
    "large dimensions": (
        whole([], [Tensor("t", (HUGE, HUGE, 2))]),
        f"'t' has {HUGE * HUGE * 2} elements",
    ),
    "a tensor twice": (whole([], [Tensor("t", (1,)), Tensor("t", (1,))]), "the tensor 't' twice"),
    "a tensor beyond the end": (
        whole([], [Tensor("t", (1,), offset=1 << 62)]),
        "is cut short: it has",
    ),
    "no alignment": (write_head([("general.alignment", 0)]), "general.alignment is 0"),
    "a textual alignment": (
        write_head([("general.alignment", [32, 32])]),
        "general.alignment is (32, 32)",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_sound_head_is_refused_in_words(name: str) -> None:
    content, problem = HOSTILE[name]
    with pytest.raises(ModelFileError) as refusal:
        read(content)
    assert problem in str(refusal.value)
    assert len(str(refusal.value)) < 300


def test_a_file_that_is_not_all_there_says_how_much_is_missing() -> None:
    content = whole([ARCHITECTURE], TENSORS)
    head_bytes = len(write_head([ARCHITECTURE], TENSORS))
    expected = -(-head_bytes // 32) * 32 + DATA_BYTES
    assert read(content[:expected]).weights.total_bytes
    with pytest.raises(ModelFileError, match=f"it has {expected - 1} of {expected} bytes; fetch"):
        read(content[: expected - 1])


def test_an_alignment_of_its_own_is_kept_to() -> None:
    aligned = [ARCHITECTURE, ("general.alignment", 4096)]
    content = write_head(aligned, TENSORS)
    assert read(content.ljust(4096, b"\0") + bytes(DATA_BYTES)).weights.total_bytes
    with pytest.raises(ModelFileError, match="is cut short"):
        read(content + bytes(DATA_BYTES + 32))


def test_strings_that_go_beyond_the_end_are_refused_where_they_are_passed_over() -> None:
    cursor = Cursor(File(struct.pack("<Q", 1000)).read, 8)
    with pytest.raises(ModelFileError, match="is cut short"):
        cursor.skip_strings(1)


def test_a_file_that_shrinks_while_it_is_read_is_refused() -> None:
    content = write_head([ARCHITECTURE, LAYERS])
    with pytest.raises(ModelFileError, match="became shorter while it was read"):
        read_head(lambda offset, size: content[offset : offset + size - 1], len(content))


# -- whatever the bytes ------------------------------------------------------------------------

SOUND = write_head(
    [
        ARCHITECTURE,
        ("general.alignment", 32),
        ("tokenizer.ggml.tokens", ["a", "bb", "ccc"]),
        LAYERS,
        ("llama.embedding_length", 64),
        ("llama.attention.head_count", 4),
        ("llama.attention.head_count_kv", [4, 2]),
        ("llama.attention.sliding_window", 128),
        ("llama.attention.sliding_window_pattern", [True, False]),
        ("llama.ssm.inner_size", 64),
        ("llama.ssm.state_size", 16),
        ("llama.rope.freq_base", 1e4),
    ],
    TENSORS,
)
FILE_BYTES = len(SOUND) + DATA_BYTES + 32


def read_or_refuse(content: bytes, size_bytes: int) -> None:
    """Facts or the one error; the work is held against bounds by ``File``."""
    file = File(content, size_bytes)
    try:
        facts = read_facts([file.head()])
    except ModelFileError as error:
        assert str(error)
    else:
        assert facts.layers >= 1
        assert all(cache.key_size >= 0 and cache.value_size >= 0 for cache in facts.caches)
        assert facts.weights.total_bytes >= 0
    assert file.bytes_read <= HEAD_BYTES_MAX + WINDOW_BYTES
    assert len(file.reads) <= 2 + file.bytes_read // 8


def test_the_sound_head_is_sound() -> None:
    facts = read_facts([File(SOUND, FILE_BYTES).head()])
    assert (facts.layers, facts.window_tokens, facts.heads) == (2, 128, 4)


def test_every_truncation_is_refused() -> None:
    for length in range(len(SOUND)):
        with pytest.raises(ModelFileError):
            read(SOUND[:length])


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_end_in_facts_or_the_one_error(junk: bytes, has_magic: bool) -> None:
    content = b"GGUF\x03\0\0\0" + junk if has_magic else junk
    read_or_refuse(content, len(content))


@given(
    st.lists(
        st.tuples(st.integers(8, len(SOUND) - 1), st.binary(min_size=1, max_size=8)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([len(SOUND), FILE_BYTES, 1 << 45]),
)
def test_any_mutation_of_a_sound_head_ends_in_facts_or_the_one_error(
    changes: list[tuple[int, bytes]], size_bytes: int
) -> None:
    content = bytearray(SOUND)
    for at, change in changes:
        content[at : at + len(change)] = change
    read_or_refuse(bytes(content), max(size_bytes, len(content)))


@given(st.integers(8, len(SOUND) - 8), st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**60, 2**64 - 1]))
def test_any_count_in_a_sound_head_may_be_absurd(at: int, count: int) -> None:
    content = bytearray(SOUND)
    content[at : at + 8] = struct.pack("<Q", count)
    read_or_refuse(bytes(content), FILE_BYTES)

"""Reads the head of a GGUF model file: what it says of the model, and what its tensors weigh.

The file is not trusted. Whatever its bytes, reading ends in a ``Head`` or in ``ModelFileError``,
and costs no more than the constants here and in ``gguf_cursor`` say. Of values only those that a
reckoning needs are kept: a tokenizer's hundreds of thousands of strings are passed over without an
object for each.

Source: the GGUF specification of the ggml project, versions 1 (lengths of 32 bits), 2 and 3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from struct import Struct

from orchd.runner.gguf_cursor import HEAD_BYTES_MAX, U32, U64, Cursor, ModelFileError, Read
from orchd.runner.tensor_types import TENSOR_TYPES

KEYS_MAX = 16_384
TENSORS_MAX = 65_536
KEPT_ITEMS_MAX = 4096
"""Of the arrays, only those with an item for each layer are kept."""
_DIMS_MAX = 4
_ELEMENTS_MAX = 1 << 63

Number = int | float | bool
Value = Number | str | tuple[Number, ...]

_STRING, _ARRAY = 8, 9
_ARCHITECTURE = b"general.architecture"
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_SCALARS = {kind: Struct("<" + code) for kind, code in _CODES.items()}
_KEPT = re.compile(
    rb"general\.alignment|split\.(no|count)"
    rb"|tokenizer\.ggml\.tokens"
    rb"|[^.]+\.(block_count|context_length|embedding_length|feed_forward_length|vocab_size"
    rb"|expert_(used_count|feed_forward_length)|full_attention_interval|shortconv\.l_cache"
    rb"|token_shift_count|(attention|ssm|wkv)\..+)"
)
_BLOCK = re.compile(rb"blk\.(\d{1,5})\.")
_INPUTS = (b"token_embd.", b"per_layer_token_embd.")


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes of a file's tensors, by where they belong."""

    total_bytes: int
    input_bytes: int = 0
    """The embedding of tokens."""
    has_output: bool = False
    """False where one matrix serves for input and output."""
    vocabulary: int = 0
    layer_bytes: tuple[tuple[int, int], ...] = ()
    """Layer's number and bytes, for the layers that this file has a part of."""
    expert_bytes: tuple[tuple[int, int], ...] = ()
    """The share of the experts in them."""
    unknown_types: tuple[int, ...] = ()
    """Types that orchd does not know: then ``total_bytes`` is what the file has behind its head."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of one file says."""

    file_bytes: int
    values: Mapping[str, Value]
    """Of an array that is too long to be kept, its length."""
    weights: Weights


def read_head(read: Read, file_bytes: int) -> Head:
    """The head of a file of that size. Raises ModelFileError, and nothing else of its own."""
    cursor = Cursor(read, file_bytes)
    version = _read_version(cursor)
    cursor.length = U32 if version == 1 else U64
    tensors, keys = cursor.number(cursor.length), cursor.number(cursor.length)
    # A key has a length and a type at least, a tensor also its dimensions and its offset.
    cursor.expect(keys, cursor.length.size + 4, "keys", KEYS_MAX)
    values = _read_values(cursor, keys)
    cursor.expect(tensors, cursor.length.size + 16, "tensors", TENSORS_MAX)
    sums = _Sums()
    names: set[bytes] = set()
    for _ in range(tensors):
        _read_tensor(cursor, names, sums)
    return Head(file_bytes, values, _weigh(sums, cursor.at, values, file_bytes))


def _read_version(cursor: Cursor) -> int:
    if cursor.file_bytes == 0:
        raise ModelFileError("is empty")
    magic = cursor.take(min(4, cursor.file_bytes))
    if magic != b"GGUF":
        raise ModelFileError(
            "is not a GGUF file (it does not begin with GGUF); llama.cpp loads models in that"
            " format only"
        )
    version = cursor.number(U32)
    if version & 0xFFFF == 0 and version:
        raise ModelFileError("is a big-endian GGUF file; take the little-endian one of this model")
    if version not in (1, 2, 3):
        raise ModelFileError(
            f"is a GGUF file of version {version}, and orchd reads 1 to 3; with the pool's vram_mib"
            " written it need not read it"
        )
    return version


def _read_values(cursor: Cursor, count: int) -> dict[str, Value]:
    values: dict[str, Value] = {}
    seen: set[bytes] = set()
    for _ in range(count):
        key = cursor.text("a key")
        if key in seen:
            raise ModelFileError(f"is damaged: it has the key {_show(key)} twice")
        seen.add(key)
        value = _read_value(cursor, key, is_kept=_KEPT.fullmatch(key) is not None)
        if value is not None:
            values[key.decode("utf-8", "replace")] = value
    return values


def _read_value(cursor: Cursor, key: bytes, *, is_kept: bool) -> Value | None:
    kind = cursor.number(U32)
    if kind == _STRING:
        if key == _ARCHITECTURE:
            return cursor.text(f"a value of {_show(key)}").decode("utf-8", "replace")
        cursor.skip_strings(1)
        return None
    if kind == _ARRAY:
        return _read_array(cursor, key, is_kept=is_kept)
    form = _SCALARS.get(kind)
    if form is None:
        raise ModelFileError(f"is damaged: {_show(key)} has the unknown type {kind}")
    if is_kept:
        number: Number = form.unpack(cursor.take(form.size))[0]
        return number
    cursor.skip(form.size)
    return None


def _read_array(cursor: Cursor, key: bytes, *, is_kept: bool) -> Value | None:
    kind, count = cursor.number(U32), cursor.number(cursor.length)
    form = _SCALARS.get(kind)
    if form is None and kind != _STRING:
        raise ModelFileError(f"is damaged: {_show(key)} is an array of the type {kind}")
    each_bytes = cursor.length.size if form is None else form.size
    cursor.expect(count, each_bytes, f"items of {_show(key)}", HEAD_BYTES_MAX)
    if form is None:
        cursor.skip_strings(count)
    elif is_kept and count <= KEPT_ITEMS_MAX:
        return tuple(item for (item,) in form.iter_unpack(cursor.take(count * each_bytes)))
    else:
        cursor.skip(count * each_bytes)
    return count if is_kept else None


class _Sums:
    """What the tensors read so far add up to."""

    def __init__(self) -> None:
        self.total = self.inputs = self.vocabulary = self.end = 0
        self.has_output = False
        self.layers: dict[int, int] = {}
        self.experts: dict[int, int] = {}
        self.unknown: set[int] = set()


def _read_tensor(cursor: Cursor, names: set[bytes], sums: _Sums) -> None:
    name = cursor.text("a tensor's name")
    if name in names:
        raise ModelFileError(f"is damaged: it has the tensor {_show(name)} twice")
    names.add(name)
    dimensions = cursor.number(U32)
    if dimensions > _DIMS_MAX:
        raise ModelFileError(f"is damaged: {_show(name)} has {dimensions} dimensions")
    dims = [cursor.number(cursor.length) for _ in range(dimensions)]
    elements = 1
    for dim in dims:
        elements *= dim
    if elements >= _ELEMENTS_MAX:
        raise ModelFileError(f"is damaged: {_show(name)} has {elements} elements")
    number, offset = cursor.number(U32), cursor.number(U64)
    kind = TENSOR_TYPES.get(number)
    if kind is None:
        sums.unknown.add(number)
        return
    size_bytes = kind.row_bytes(elements)
    sums.total += size_bytes
    sums.end = max(sums.end, offset + size_bytes)
    if name.startswith(_INPUTS):
        sums.inputs += size_bytes
    if name == b"token_embd.weight" and len(dims) > 1:
        sums.vocabulary = dims[1]
    sums.has_output |= name == b"output.weight"
    if block := _BLOCK.match(name):
        layer = int(block[1])
        sums.layers[layer] = sums.layers.get(layer, 0) + size_bytes
        if b"_exps." in name:
            sums.experts[layer] = sums.experts.get(layer, 0) + size_bytes


def _weigh(sums: _Sums, head_bytes: int, values: Mapping[str, Value], file_bytes: int) -> Weights:
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= HEAD_BYTES_MAX:
        raise ModelFileError(f"is damaged: general.alignment is {alignment}")
    begin = -(-head_bytes // alignment) * alignment
    if sums.total and begin + sums.end > file_bytes:
        raise ModelFileError(
            f"is cut short: it has {file_bytes} of {begin + sums.end} bytes; fetch it anew"
        )
    if sums.unknown:
        return Weights(file_bytes - head_bytes, unknown_types=tuple(sorted(sums.unknown)))
    return Weights(
        total_bytes=sums.total,
        input_bytes=sums.inputs,
        has_output=sums.has_output,
        vocabulary=sums.vocabulary,
        layer_bytes=tuple(sorted(sums.layers.items())),
        expert_bytes=tuple(sorted(sums.experts.items())),
    )


def _show(text: bytes) -> str:
    """A name out of the file, short and printable."""
    return ascii(text[:60].decode("utf-8", "replace"))

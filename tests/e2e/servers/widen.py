"""Rewrites a GGUF file's tensors of type Q4_1 as Q5_1, which more engines read; no value changes.

A block of either has 32 weights, a scale, a minimum and four bits of each weight; Q5_1 has the
fifth bits between them. Four bytes of zeros there make the one the other.

Source: the GGUF specification of the ggml project, and ``block_q4_1`` and ``block_q5_1`` of ggml.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_Q4_1, _Q5_1 = 3, 7
_Q4_1_BYTES, _Q5_1_BYTES = 20, 24
_SCALE_BYTES, _FIFTH_BITS_BYTES = 4, 4
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


@dataclass
class _Tensor:
    """Where its entry names its type and its data's offset, and what stands there."""

    at: int
    type_id: int
    offset: int


def widen(source: Path, target: Path) -> None:
    """Write ``target``. The file is one that we know: whatever is amiss is an exception."""
    data = source.read_bytes()
    tensors, head_bytes = _read_tensors(data)
    head = bytearray(data[:head_bytes])
    start = _align(head_bytes)
    tensors.sort(key=lambda tensor: tensor.offset)
    ends = [later.offset for _, later in pairwise(tensors)] + [len(data) - start]
    with target.open("wb") as file:
        file.seek(start)
        at = 0
        for tensor, end in zip(tensors, ends, strict=True):
            weights = data[start + tensor.offset : start + end]
            if tensor.type_id == _Q4_1:
                weights = _widen_blocks(weights)
                tensor.type_id = _Q5_1
            struct.pack_into("<IQ", head, tensor.at, tensor.type_id, at)
            file.write(weights.ljust(_align(len(weights)), b"\0"))
            at += _align(len(weights))
        file.seek(0)
        file.write(head)


def _widen_blocks(weights: bytes) -> bytes:
    whole = len(weights) // _Q4_1_BYTES * _Q4_1_BYTES  # behind it is the padding
    wide = bytearray(whole // _Q4_1_BYTES * _Q5_1_BYTES)
    for byte in range(_Q4_1_BYTES):
        place = byte if byte < _SCALE_BYTES else byte + _FIFTH_BITS_BYTES
        wide[place::_Q5_1_BYTES] = weights[byte:whole:_Q4_1_BYTES]
    return bytes(wide)


def _read_tensors(data: bytes) -> tuple[list[_Tensor], int]:
    """The tensors' entries, and where they end."""
    magic, version, count, keys = struct.unpack_from("<4sIQQ", data)
    assert (magic, version) == (b"GGUF", 3)
    at = 24
    for _ in range(keys):
        at = _skip_string(data, at)
        (type_id,) = struct.unpack_from("<I", data, at)
        at = _skip_value(data, at + 4, type_id)
    tensors = []
    for _ in range(count):
        at = _skip_string(data, at)
        (dimensions,) = struct.unpack_from("<I", data, at)
        at += 4 + 8 * dimensions
        tensors.append(_Tensor(at, *struct.unpack_from("<IQ", data, at)))
        at += 12
    return tensors, at


def _skip_value(data: bytes, at: int, type_id: int) -> int:
    if type_id == _STRING:
        return _skip_string(data, at)
    if type_id != _ARRAY:
        return at + _SIZES[type_id]
    item_type, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if item_type != _STRING:
        return at + int(count) * _SIZES[item_type]
    for _ in range(count):
        at = _skip_string(data, at)
    return at


def _skip_string(data: bytes, at: int) -> int:
    return at + 8 + int.from_bytes(data[at : at + 8], "little")


def _align(size_bytes: int) -> int:
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT

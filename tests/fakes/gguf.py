"""Writes the heads of GGUF model files: as small as a test wishes, sound or broken on purpose."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?"}
FORMATS |= {U64: "Q", I64: "q", F64: "d"}
TENSOR_F32, TENSOR_F16, TENSOR_Q8_0 = 0, 1, 8
ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class Typed:
    """A value whose type in the file is not the usual one for its Python type."""

    type_id: int
    value: int | float | bool | str | Sequence[int | float | bool | str]
    item_type: int = I32


Value = int | float | bool | str | Sequence[int] | Sequence[bool] | Sequence[str] | Typed


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor's entry; its bytes are not written."""

    name: str
    dims: tuple[int, ...]
    type_id: int = TENSOR_F32
    offset: int = 0


def write_head(
    values: Mapping[str, Value] | Sequence[tuple[str, Value]],
    tensors: Sequence[Tensor] = (),
    *,
    version: int = 3,
    order: str = "<",
    count: int | None = None,
) -> bytes:
    """A whole head; ``order`` is struct's byte order, ``count`` the number of values it claims."""
    pairs = list(values.items()) if isinstance(values, Mapping) else list(values)
    size = order + ("I" if version == 1 else "Q")
    told = len(pairs) if count is None else count
    parts = [b"GGUF", struct.pack(order + "I", version)]
    parts += [struct.pack(size, len(tensors)), struct.pack(size, told)]
    for name, value in pairs:
        parts += [_string(name, size), _value(value, order, size)]
    for tensor in tensors:
        dims = b"".join(struct.pack(size, dim) for dim in tensor.dims)
        parts += [_string(tensor.name, size), struct.pack(order + "I", len(tensor.dims)), dims]
        parts += [struct.pack(order + "I", tensor.type_id)]
        parts += [struct.pack(order + "Q", tensor.offset)]
    return b"".join(parts)


def write_sparse(path: Path, head: bytes, data_bytes: int) -> Path:
    """A file of that head and so many bytes of tensors, which take no room on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.truncate(-(-len(head) // ALIGNMENT) * ALIGNMENT + data_bytes)
    return path


def _value(value: Value, order: str, size: str) -> bytes:
    typed = value if isinstance(value, Typed) else _typed(value)
    return struct.pack(order + "I", typed.type_id) + _payload(typed, order, size)


def _typed(
    value: int | float | bool | str | Sequence[int] | Sequence[bool] | Sequence[str],
) -> Typed:
    match value:
        case bool():
            return Typed(BOOL, value)
        case int():
            return Typed(U32, value)
        case float():
            return Typed(F32, value)
        case str():
            return Typed(STRING, value)
    first = value[0] if value else 0
    item_type = BOOL if isinstance(first, bool) else STRING if isinstance(first, str) else I32
    return Typed(ARRAY, value, item_type)


def _payload(typed: Typed, order: str, size: str) -> bytes:
    value = typed.value
    if typed.type_id == ARRAY:
        assert isinstance(value, Sequence)
        items = b"".join(_scalar(item, typed.item_type, order, size) for item in value)
        return struct.pack(order + "I", typed.item_type) + struct.pack(size, len(value)) + items
    assert isinstance(value, int | float | str)
    return _scalar(value, typed.type_id, order, size)


def _scalar(value: int | float | str, type_id: int, order: str, size: str) -> bytes:
    if isinstance(value, str):
        return _string(value, size)
    return struct.pack(order + FORMATS[type_id], value)


def _string(text: str, size: str) -> bytes:
    encoded = text.encode()
    return struct.pack(size, len(encoded)) + encoded

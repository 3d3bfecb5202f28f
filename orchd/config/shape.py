"""Reads the model's own declarations: which keys a table has, and what each may hold.

The only module that knows how ``typing`` spells these things.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import MappingProxyType, NoneType, UnionType
from typing import Annotated, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a table."""

    declared: object
    """Its type with all marks, as ``split`` takes it."""
    is_required: bool


@cache
def keys_of(table: type) -> Mapping[str, Key]:
    """Return the keys of a model class, in the order of their declaration."""
    hints = get_type_hints(table, include_extras=True)
    assert is_dataclass(table)
    return MappingProxyType(
        {
            field.name: Key(
                hints[field.name],
                field.default is MISSING and field.default_factory is MISSING,
            )
            for field in fields(table)
        }
    )


def split(declared: object) -> tuple[object, tuple[object, ...]]:
    """Separate a declared type from its marks."""
    if get_origin(declared) is Annotated:
        core, *marks = get_args(declared)
        return core, tuple(marks)
    return declared, ()


def alternatives(core: object) -> tuple[object, ...]:
    """Return a union's members, else the type alone; TOML has no null, so None is not one."""
    if get_origin(core) in (Union, UnionType):
        return tuple(member for member in get_args(core) if member is not NoneType)
    return (core,)


def family(core: object) -> object:
    """Return what a type is one of: ``dataclass``, ``tuple``, ``Mapping``, ``Literal``, ``str``…"""
    return dataclass if is_dataclass(core) else get_origin(core) or core

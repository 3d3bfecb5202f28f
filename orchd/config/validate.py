"""Turns a parsed document into a ``Config``, or into every fault it holds, in document order.

One walk, driven by the model alone: no key of the configuration is named here. A value at fault
never hides another fault; a missing key is told after the keys that its table does have. Secrets
appear in no message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Literal, TypeVar, get_args

from orchd.config.marks import Check, Doc, Inherits, Parsed, Reading, Secret, Unfit
from orchd.config.model import Config, PoolConfig
from orchd.config.shape import alternatives, family, keys_of, split
from orchd.config.wording import found, found_kind, kind_of, show, show_key
from orchd.errors import Fault

EngineRule = Callable[[PoolConfig], Iterable[Fault]]
"""What an engine has against a pool of its own; paths count from the pool (``args[2]``).

Called for each pool whose required keys could be read; another key at fault holds its default, so
that the engine's faults are told together with all the rest.
"""

_Mark = TypeVar("_Mark")


class _Faulty:
    """Stands where a value is at fault; the fault itself has been told."""


_FAULTY = _Faulty()


@dataclass(frozen=True, slots=True)
class _Spot:
    """A place in the document."""

    path: str = ""
    is_secret: bool = False

    def below(self, suffix: str) -> _Spot:
        return replace(self, path=self.path + suffix)

    def key(self, name: str) -> _Spot:
        return self.below(("." if self.path else "") + show_key(name))

    def found(self, written: object) -> str:
        return found(written, is_secret=self.is_secret)


@dataclass(frozen=True, slots=True)
class _Walk:
    """One pass over a document, and the faults met so far."""

    document: Mapping[str, object]
    engine_rules: Mapping[str, EngineRule]
    faults: list[Fault]

    def blame(self, spot: _Spot, problem: str) -> _Faulty:
        self.faults.append(Fault(spot.path, problem))
        return _FAULTY

    def read(self, declared: object, written: object, spot: _Spot) -> object:
        """Return the model's value, or ``_FAULTY`` once each fault in it is told."""
        core, marks = split(declared)
        if _find(marks, Secret):
            spot = replace(spot, is_secret=True)
        if inherits := _find(marks, Inherits):
            written = self._inherit(inherits, core, written)
        parsed = _find(marks, Parsed)
        if parsed:
            value = self._parse(parsed, written, spot)
        else:
            value = self._read_core(core, written, spot)
        return value if value is _FAULTY else self._check(marks, written, value, spot)

    def _read_core(self, core: object, written: object, spot: _Spot) -> object:
        members = alternatives(core)
        fitting = next((member for member in members if _fits(member, written)), None)
        if fitting is None:
            wanted = " or ".join(_describe(member) for member in members)
            kind = found_kind(written, is_secret=spot.is_secret)
            return self.blame(spot, f"must be {wanted}, {kind}")
        if fitting is not core:
            return self.read(fitting, written, spot)
        return _FORMS[family(core)].read(self, core, written, spot)

    def _parse(self, parsed: Parsed, written: object, spot: _Spot) -> object:
        value = self.read(parsed.written, written, spot)
        if value is _FAULTY:
            return _FAULTY
        value = parsed.parse(value)
        if isinstance(value, Unfit):
            return self.blame(spot, f"must be {value.wanted}, {spot.found(written)}")
        return value

    def _check(
        self, marks: Sequence[object], written: object, value: object, spot: _Spot
    ) -> object:
        reading = Reading(written, value, spot.found(written))
        problems = [
            problem
            for mark in marks
            if isinstance(mark, Check)
            for problem in mark.problems(reading)
        ]
        for suffix, problem in problems:
            self.blame(spot.below(suffix), problem)
        is_whole = all(part is not _FAULTY for part in _parts(value))
        return value if is_whole and not problems else _FAULTY

    def _inherit(self, inherits: Inherits, core: object, written: object) -> object:
        base = self.document.get(inherits.table, {})
        if not isinstance(base, Mapping) or not isinstance(written, Mapping):
            return written
        # Faults of the inherited table are told where they stand, not once more in each heir.
        trial = _Walk(self.document, {}, [])
        trial.read(core, base, _Spot())
        return written if trial.faults else {**base, **written}

    def hear_engine(self, pool: PoolConfig, spot: _Spot) -> None:
        """Add what the pool's engine has against it."""
        rule = self.engine_rules.get(pool.engine)
        for fault in rule(pool) if rule else ():
            place = spot.below(f".{fault.path}" if fault.path else "")
            # A key at fault holds its default here, of which there is nothing to say.
            if not (fault.path and any(_lies(told.path, place.path) for told in self.faults)):
                self.blame(place, fault.problem)


def validate(
    document: Mapping[str, object],
    engine_rules: Mapping[str, EngineRule] = MappingProxyType({}),
) -> Config | tuple[Fault, ...]:
    """Read a document as TOML's parser gives it: the configuration, or all that is wrong with it.

    ``engine_rules`` maps an engine's name to its say about its pools. A tuple of faults is never
    empty. No document makes this raise.
    """
    walk = _Walk(document, engine_rules, [])
    config = walk.read(Config, document, _Spot())
    if walk.faults:
        return tuple(walk.faults)
    assert isinstance(config, Config)
    return config


def _lies(path: str, place: str) -> bool:
    """Whether a path is that place, or one in it."""
    return path.startswith(place) and path[len(place) :][:1] in ("", "[", ".")


def _find(marks: Sequence[object], kind: type[_Mark]) -> _Mark | None:
    return next((mark for mark in marks if isinstance(mark, kind)), None)


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, tuple):
        yield from value
    elif isinstance(value, Mapping):
        yield from value
        yield from value.values()


def _fits(declared: object, written: object) -> bool:
    core, _ = split(declared)
    return _FORMS[family(core)].fits(core, written)


def _describe(declared: object) -> str:
    core, _ = split(declared)
    return _FORMS[family(core)].describe(core)


_Read = Callable[[_Walk, object, object, _Spot], object]


@dataclass(frozen=True, slots=True)
class _Form:
    """How one family of types is told from the others, named and read."""

    fits: Callable[[object, object], bool]
    describe: Callable[[object], str]
    read: _Read


def _form(wanted: str, *kinds: str, read: _Read) -> _Form:
    return _Form(lambda _core, written: kind_of(written) in kinds, lambda _core: wanted, read)


def _read_as_is(_walk: _Walk, _core: object, written: object, _spot: _Spot) -> object:
    return written


def _read_float(walk: _Walk, _core: object, written: object, spot: _Spot) -> object:
    assert isinstance(written, int | float)
    # Compared before it is converted: an integer beyond a float's range cannot be. False for nan.
    if not -1e300 < written < 1e300:
        return walk.blame(spot, f"must be a finite number, {spot.found(written)}")
    return float(written)


def _read_string(walk: _Walk, _core: object, written: object, spot: _Spot) -> object:
    assert isinstance(written, str)
    if "\0" in written:
        return walk.blame(spot, f"must not contain a NUL character, {spot.found(written)}")
    return written


def _read_array(walk: _Walk, core: object, written: object, spot: _Spot) -> object:
    assert isinstance(written, list)
    item, _ = get_args(core)
    return tuple(walk.read(item, entry, spot.below(f"[{at}]")) for at, entry in enumerate(written))


def _read_mapping(walk: _Walk, core: object, written: object, spot: _Spot) -> object:
    assert isinstance(written, Mapping)
    name_type, entry_type = get_args(core)
    return MappingProxyType(
        {
            walk.read(name_type, name, spot.key(name)): walk.read(entry_type, entry, spot.key(name))
            for name, entry in written.items()
        }
    )


def _read_table(walk: _Walk, core: object, written: object, spot: _Spot) -> object:
    assert isinstance(written, Mapping) and isinstance(core, type)
    keys = keys_of(core)
    values: dict[str, object] = {}
    for name, entry in written.items():
        if name in keys:
            values[name] = walk.read(keys[name].declared, entry, spot.key(name))
        else:
            walk.blame(spot.key(name), _name_nearest(name, tuple(keys)))
    for name, key in keys.items():
        _, marks = split(key.declared)
        if name in written:
            continue
        if _find(marks, Inherits):
            values[name] = walk.read(key.declared, {}, spot.key(name))
        elif key.is_required:
            doc = _find(marks, Doc)
            values[name] = walk.blame(
                spot.key(name), f"is required and missing: {doc.text if doc else name}"
            )
    sound = {name: value for name, value in values.items() if value is not _FAULTY}
    if any(key.is_required and name not in sound for name, key in keys.items()):
        return _FAULTY
    make: Callable[..., object] = core
    built = make(**sound)
    if isinstance(built, PoolConfig):
        walk.hear_engine(built, spot)
    return built


def _name_nearest(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name.lower(), known, n=1)
    if near:
        return f"is not a known key; did you mean {near[0]}?"
    return f"is not a known key; known here: {', '.join(known)}"


def _describe_array(core: object) -> str:
    item, _ = get_args(core)
    return (
        "an array of tables (double brackets)"
        if family(split(item)[0]) is dataclass
        else "an array"
    )


_FORMS: Mapping[object, _Form] = {
    int: _form("an integer", "integer", read=_read_as_is),
    float: _form("a number", "float", "integer", read=_read_float),
    str: _form("a string", "string", read=_read_string),
    Literal: _Form(
        lambda core, written: kind_of(written) == "string" and written in get_args(core),
        lambda core: " or ".join(show(choice) for choice in get_args(core)),
        _read_as_is,
    ),
    tuple: _Form(lambda _core, written: kind_of(written) == "array", _describe_array, _read_array),
    Mapping: _form("a table", "table", read=_read_mapping),
    dataclass: _form("a table", "table", read=_read_table),
}

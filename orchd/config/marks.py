"""The vocabulary in which the model declares what a key may hold.

A mark is data inside ``typing.Annotated``. It knows nothing of any one key and of no engine; what
it can say of a value, it says as text for the user. Marks are read by the validator and by whatever
else describes the model, so none of them hides a rule in code alone, save ``Parsed``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """One value as a check meets it."""

    written: object
    """As it stands in the document."""
    value: object
    """As the model will hold it; an array keeps a placeholder where an item was at fault."""
    found: str
    """How to name the value to the user; says nothing of it when it is a secret."""


class Check(ABC):
    """A mark that can refuse a value of the right type."""

    __slots__ = ()

    @abstractmethod
    def problems(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Yield (path below the value, what is wrong and the mend), nothing when all is well."""


@dataclass(frozen=True, slots=True)
class Doc:
    """The key in one line, for people: in the schema and where a required key is missing."""

    text: str


@dataclass(frozen=True, slots=True)
class Secret:
    """The value is never repeated in a message."""


@dataclass(frozen=True, slots=True)
class Inherits:
    """A table whose missing keys are taken from the top-level table of this name."""

    table: str


@dataclass(frozen=True, slots=True)
class Unfit:
    """What a parser answers instead of a value: the phrase that completes "must be"."""

    wanted: str


@dataclass(frozen=True, slots=True)
class Parsed:
    """The document holds one type (``written``), the model what ``parse`` makes of it."""

    written: object
    parse: Callable[..., object]
    """From a value of the written type to the model's value, or ``Unfit``."""


@dataclass(frozen=True, slots=True)
class Bounds(Check):
    """A number from ``low`` to ``high``, both allowed."""

    low: int
    high: int

    def problems(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Refuse a number outside, and with it a nan."""
        assert isinstance(reading.value, int | float)
        if not self.low <= reading.value <= self.high:
            yield "", f"must be from {self.low} to {self.high}, {reading.found}"


@dataclass(frozen=True, slots=True)
class Length(Check):
    """From ``low`` to ``high`` characters of a string, items of an array or keys of a table."""

    low: int
    high: int

    def problems(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Refuse what is too short or too long, by its count and not by its content."""
        written = reading.written
        assert isinstance(written, str | Sequence | Mapping)
        if self.low <= len(written) <= self.high:
            return
        if self.low == 1 and not written:
            yield "", "must not be empty"
            return
        noun = "characters" if isinstance(written, str) else "entries"
        yield "", f"must have from {self.low} to {self.high} {noun}, has {len(written)}"


@dataclass(frozen=True, slots=True)
class Pattern(Check):
    """A string that ``regex`` matches whole; ``wanted`` says in words what that is."""

    regex: str
    wanted: str

    def matches(self, text: str) -> bool:
        """Whether the text has this form from its first character to its last."""
        return re.fullmatch(self.regex, text) is not None

    def problems(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Refuse a string of another form."""
        assert isinstance(reading.value, str)
        if not self.matches(reading.value):
            yield "", f"must be {self.wanted}, {reading.found}"


@dataclass(frozen=True, slots=True)
class Reserved(Check):
    """Names that orchd sets itself, each with what to write instead."""

    instead: Mapping[str, str]

    def problems(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Refuse such a name."""
        if isinstance(reading.value, str) and reading.value in self.instead:
            yield "", f"is set by orchd itself; {self.instead[reading.value]}"


@dataclass(frozen=True, slots=True)
class Unique(Check):
    """No two items of an array alike; with ``key``, no two tables of it alike in that key."""

    key: str | None = None

    def problems(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Refuse each repetition where it stands, naming where it stood first."""
        suffix = f".{self.key}" if self.key else ""
        first_at: dict[str, int] = {}
        for index, name in enumerate(self._names(reading)):
            if name is None:
                continue
            if name in first_at:
                where = f"entry {first_at[name]}"
                yield f"[{index}]{suffix}", f'must be unique, "{name}" is already in {where}'
            else:
                first_at[name] = index

    def _names(self, reading: Reading) -> Iterator[str | None]:
        # By key the document itself is looked at: a table that is at fault elsewhere has no value,
        # yet its name is taken all the same.
        items = reading.value if self.key is None else reading.written
        assert isinstance(items, Sequence)
        for item in items:
            name = item.get(self.key) if isinstance(item, Mapping) else item
            yield name if isinstance(name, str) else None


@dataclass(frozen=True, slots=True)
class Alone(Check):
    """An item that excludes every other item of its array, but for those ``beside`` it."""

    item: str
    beside: tuple[str, ...] = ()

    def problems(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Refuse the array that holds it beside something else."""
        assert isinstance(reading.value, Sequence)
        others = [item for item in reading.value if item not in (self.item, *self.beside)]
        if self.item in reading.value and others:
            allowed = "".join(f' or with "{item}"' for item in self.beside)
            yield "", f'must hold "{self.item}" alone{allowed}, or not at all'


@dataclass(frozen=True, slots=True)
class Exclusive(Check):
    """Keys of a table of which at most one may be written."""

    keys: tuple[str, ...]

    def problems(self, reading: Reading) -> Iterator[tuple[str, str]]:
        """Refuse the table that has several of them."""
        assert isinstance(reading.written, Mapping)
        present = [key for key in self.keys if key in reading.written]
        if len(present) > 1:
            yield "", f"must have only one of {' and '.join(present)}; remove the other"

"""Reads Prometheus's text format 0.0.4, whoever wrote it, and says what is wrong with it.

By the standard library alone, and apart from orchd's own writer: a mistake must not be made twice
in the same way. Source: prometheus.io, "Exposition formats".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_COMMENT = re.compile(rf"#[ \t]+(HELP|TYPE)[ \t]+({_NAME})(?:[ \t]+(.*))?")
_SAMPLE = re.compile(rf"({_NAME})[ \t]*(\{{.*\}})?[ \t]*(.*)")
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(,|$)')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPES = {"\\": "\\", '"': '"', "n": "\n"}
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?|Inf)|NaN")
_TYPES = ("counter", "gauge", "histogram", "summary", "untyped")
_PARTS = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}


@dataclass(frozen=True)
class Sample:
    """One line with a value."""

    line: int
    name: str
    labels: tuple[tuple[str, str], ...]
    """In the order in which they stand there."""
    value: float


@dataclass
class Family:
    """A series with all that is said of it."""

    name: str
    line: int
    type: str | None = None
    help: str | None = None
    samples: list[Sample] = field(default_factory=list)


@dataclass
class Exposition:
    """A page; ``faults`` are breaches of the format, each with its line."""

    families: dict[str, Family] = field(default_factory=dict)
    faults: list[tuple[int, str]] = field(default_factory=list)


def read_exposition(page: bytes) -> Exposition:
    """Read it to its end, whatever is wrong with it."""
    found = Exposition()
    try:
        text = page.decode("utf-8")
    except UnicodeDecodeError as error:
        found.faults.append((page.count(b"\n", 0, error.start) + 1, "is not UTF-8"))
        text = page.decode("utf-8", "replace")
    if "\0" in text:
        found.faults.append((text.count("\n", 0, text.index("\0")) + 1, "holds a NUL"))
    if text and not text.endswith("\n"):
        found.faults.append((text.count("\n") + 1, "the last line has no end"))
    last: Family | None = None
    for number, line in enumerate(text.split("\n"), 1):
        try:
            family = _read_line(found, number, line.strip(" \t"))
        except ValueError as error:
            found.faults.append((number, str(error)))
            continue
        if family is None:
            continue
        if family is not last and family.line != number:
            problem = f"{family.name} goes on after another series; a series stands together"
            found.faults.append((number, problem))
        last = family
    found.faults += _find_twins(found)
    found.faults.sort()
    return found


def _read_line(found: Exposition, number: int, line: str) -> Family | None:
    """The family that the line belongs to. Raises ValueError on what cannot be read."""
    if line.startswith("#"):
        return _read_comment(found, number, line)
    if not line:
        return None
    match = _SAMPLE.fullmatch(line)
    if match is None:
        raise ValueError(f"is no sample: {line[:80]!r}")
    name, labels, rest = match[1], match[2], match[3]
    value, *moment = rest.split()[:3] or [""]
    if not _NUMBER.fullmatch(value):
        raise ValueError(f"{name}: {value[:40]!r} is no number")
    if len(moment) > 1 or (moment and not re.fullmatch(r"-?\d+", moment[0])):
        raise ValueError(f"{name}: {' '.join(moment)[:40]!r} is no timestamp")
    family = _family_of(found, name, number)
    told = tuple(_read_labels(name, labels[1:-1])) if labels else ()
    family.samples.append(Sample(number, name, told, float(value)))
    return family


def _read_comment(found: Exposition, number: int, line: str) -> Family | None:
    match = _COMMENT.fullmatch(line)
    if match is None:
        if re.match(r"#[ \t]+(HELP|TYPE)\b", line):
            raise ValueError(f"is no HELP and no TYPE: {line[:80]!r}")
        return None
    kind, name, text = match[1], match[2], (match[3] or "").strip()
    family = found.families.setdefault(name, Family(name, number))
    if kind == "HELP":
        if family.help is not None:
            raise ValueError(f"{name}: a second HELP")
        family.help = text
        return family
    if family.type is not None:
        raise ValueError(f"{name}: a second TYPE")
    if text not in _TYPES:
        raise ValueError(f"{name}: {text[:40]!r} is no type")
    if family.samples:
        raise ValueError(f"{name}: its TYPE comes after its samples")
    family.type = text
    return family


def _family_of(found: Exposition, name: str, number: int) -> Family:
    for type_, parts in _PARTS.items():
        for part in parts:
            base = found.families.get(name.removesuffix(part)) if name.endswith(part) else None
            if base is not None and base.type == type_:
                return base
    return found.families.setdefault(name, Family(name, number))


def _read_labels(name: str, text: str) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    at = 0
    while text[at:].strip():
        match = _LABEL.match(text, at)
        if match is None:
            raise ValueError(f"{name}: cannot read its labels at {text[at : at + 40]!r}")
        label, value = match[1], match[2]
        for escape in _ESCAPE.findall(value):
            if escape not in _ESCAPES:
                raise ValueError(f"{name}: label {label} holds the unknown escape \\{escape}")
        if label in seen:
            raise ValueError(f"{name}: label {label} stands there twice")
        seen.add(label)
        yield label, _ESCAPE.sub(lambda escape: _ESCAPES[escape[1]], value)
        at = match.end()


def _find_twins(found: Exposition) -> Iterator[tuple[int, str]]:
    for family in found.families.values():
        seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels))
            if key in seen:
                yield sample.line, f"{sample.name}: the same labels stand there twice"
            seen.add(key)

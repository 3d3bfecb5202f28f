"""Writes Prometheus's text format 0.0.4.

Source: prometheus.io, "Exposition formats". Invariants: each family has one HELP and one TYPE, and
its samples behind them; whatever text a label holds, the page stays readable: what the format
cannot carry is replaced.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from orchd.metrics.catalog import Series

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_LABEL_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n", "\0": "\ufffd"})
"""Prometheus's own lexer takes a NUL for the end of the page."""
_HELP_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\0": "\ufffd"})


@dataclass(frozen=True, slots=True)
class Sample:
    """One value; ``labels`` are the values of the series' labels, in its order."""

    labels: tuple[str, ...]
    value: int | float


@dataclass(frozen=True, slots=True)
class Family:
    """A series with the samples that it has now, no two with the same labels."""

    series: Series
    samples: Sequence[Sample]


def write_exposition(families: Iterable[Family]) -> bytes:
    """The whole page; it ends a line, as the format wants."""
    text = "".join(f"{line}\n" for family in families for line in _write_family(family))
    return text.encode("utf-8", "replace")


def _write_family(family: Family) -> Iterator[str]:
    series = family.series
    yield f"# HELP {series.name} {series.help.translate(_HELP_ESCAPES)}"
    yield f"# TYPE {series.name} {series.type}"
    for sample in family.samples:
        labels = ",".join(
            f'{name}="{value.translate(_LABEL_ESCAPES)}"'
            for name, value in zip(series.labels, sample.labels, strict=True)
        )
        yield f"{series.name}{{{labels}}} {_write_value(sample.value)}"


def _write_value(value: int | float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)

"""Lays a table's cells out in columns, for a terminal of that width or for none.

Invariant: on a terminal no line is wider than it, so none wraps.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

GAP = 2
NARROWEST = 8
"""A flexible column is not made narrower than this."""


class Color(StrEnum):
    """What a terminal is told before a word, and behind it PLAIN (ECMA-48, SGR)."""

    PLAIN = "\x1b[0m"
    BOLD = "\x1b[1m"
    RED = "\x1b[31m"
    GREEN = "\x1b[32m"
    YELLOW = "\x1b[33m"


@dataclass(frozen=True, slots=True)
class Style:
    """What the lines are for. Without ``columns`` they are as long as they are: it is a file."""

    columns: int | None = None
    has_color: bool = False
    has_blocks: bool = False
    """Whether it can show more than ASCII."""

    @property
    def ellipsis(self) -> str:
        return "…" if self.has_blocks else "~"


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell; ``is_right`` puts it at the right edge of its column."""

    text: str
    color: Color | None = None
    is_right: bool = False


Row = Sequence[Cell]


def measure(text: str) -> int:
    """How many columns of a terminal the text takes."""
    return sum(map(_measure_one, text))


def _measure_one(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int, ellipsis: str) -> str:
    """At most so many columns of the text, the last of them saying that there was more."""
    if measure(text) <= width:
        return text
    kept, left = "", width - 1
    for character in text:
        left -= _measure_one(character)
        if left < 0:
            break
        kept += character
    return kept + ellipsis if width > 0 else ""


def natural_widths(rows: Sequence[Row]) -> list[int]:
    """The widest cell of each column; each row has a cell for each."""
    return [max(measure(cell.text) for cell in column) for column in zip(*rows, strict=True)]


def lay_out(rows: Sequence[Row], flexible: int, style: Style) -> list[str]:
    """A line for each row; where the terminal is too narrow, the flexible column gives way."""
    widths = natural_widths(rows)
    if style.columns is not None:
        excess = sum(widths) + GAP * (len(widths) - 1) - style.columns
        if excess > 0:
            narrowest = min(widths[flexible], NARROWEST)
            widths[flexible] = max(widths[flexible] - excess, narrowest)
    return [_lay_out_row(row, widths, style) for row in rows]


def _lay_out_row(row: Row, widths: Sequence[int], style: Style) -> str:
    line, used = "", 0
    for n, cell in enumerate(row):
        gap, width = GAP if n else 0, widths[n]
        if style.columns is not None:
            width = min(width, style.columns - used - gap)
            if width <= 0:
                break
        text = cut(cell.text, width, style.ellipsis)
        room = width - measure(text)
        before, behind = (room, 0) if cell.is_right else (0, room)
        line += " " * (gap + before) + _paint(text, cell.color, style) + " " * behind
        used += gap + width
    return line.rstrip()


def _paint(text: str, color: Color | None, style: Style) -> str:
    return f"{color}{text}{Color.PLAIN}" if color and text and style.has_color else text


def paint_line(text: str, color: Color, style: Style) -> str:
    """A line of its own."""
    return _paint(_fit(text, style), color, style)


def indent(text: str, style: Style) -> list[str]:
    """A sentence under a row: whole, on as many lines as it takes."""
    if style.columns is None:
        return [f"  {text}"]
    width = max(style.columns - 2, 1)
    # It is wrapped by characters: where there are wide ones, as if all of them were.
    wrapped = textwrap.wrap(text, width if measure(text) <= len(text) else max(width // 2, 1))
    return [_fit(f"  {line}", style) for line in wrapped]


def _fit(text: str, style: Style) -> str:
    return text if style.columns is None else cut(text, style.columns, style.ellipsis)

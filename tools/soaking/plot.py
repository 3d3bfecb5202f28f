"""Draws what was sampled over a run: as text for a terminal, as one SVG for a browser.

Samples that are no numbers (NaN, infinite, beyond 1e100) are left out; what a terminal or XML could
not bear in a name is replaced. Times count from 0, the start, in the order in which they came.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One thing that was sampled again and again."""

    name: str
    unit: str
    points: tuple[Point, ...]
    """Seconds since the start, and the value."""


_LEAST_CELLS = 8
_NO_SAMPLES = "no samples"
# A braille character has two columns of four dots; these are their bits, from the top downwards
# (The Unicode Standard, Braille Patterns).
_BLANK = 0x2800
_DOT_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def draw_text(series: Series, columns: int = 72, rows: int = 6) -> list[str]:
    """A heading, so many rows with the greatest value at the first and the least at the last, the
    axis of time. No line is wider than so many columns, unless labels alone are."""
    heading = _clean(series.name)[:columns]
    points = _sort_out(series.points)
    if not points:
        return [heading, f"  {_NO_SAMPLES}"]
    low, high = _find_range(points)
    labels = _label_rows(low, high, _clean(series.unit), rows)
    width = max(map(len, labels))
    cells = max(_LEAST_CELLS, columns - width - 2)
    last_s = max(at_s for at_s, _ in points)
    lines = [heading]
    for label, dots in zip(labels, _draw_dots(points, last_s, cells, rows), strict=True):
        lines.append(f"{label:>{width}} {'┤' if label else '│'}{dots}".rstrip())
    end = f"{_format(last_s, last_s)} s"
    lines.append(f"{'':{width}} └{'─' * cells}")
    lines.append(f"{'':{width}}  0{end:>{max(cells - 1, len(end) + 1)}}")
    return lines


def _label_rows(low: float, high: float, unit: str, rows: int) -> list[str]:
    labels = [""] * rows
    span = high - low
    if _is_flat(low, high) or rows == 1:
        labels[rows // 2] = f"{_format(high, span)} {unit}".rstrip()
    else:
        labels[0] = f"{_format(high, span)} {unit}".rstrip()
        labels[-1] = f"{_format(low, span)} {unit}".rstrip()
    return labels


def _draw_dots(points: Sequence[Point], last_s: float, cells: int, rows: int) -> list[str]:
    """The line through the points, a string of braille a row."""
    low, high = _find_range(points)
    flat = _is_flat(low, high)
    right, bottom = cells * 2 - 1, rows * 4 - 1
    middle = rows // 2 * 4 + 2

    def place(point: Point) -> tuple[int, int]:
        at_s, value = point
        x = round(right * at_s / last_s) if last_s > 0 else 0
        y = middle if flat else round(bottom * (high - value) / (high - low))
        return min(max(x, 0), right), y

    bits = [[0] * cells for _ in range(rows)]
    places = [place(point) for point in points]
    for start, end in itertools.pairwise([places[0], *places]):
        for x, y in _walk(start, end):
            bits[y // 4][x // 2] |= _DOT_BITS[x % 2][y % 4]
    return ["".join(chr(_BLANK + cell) if cell else " " for cell in row) for row in bits]


def _walk(start: tuple[int, int], end: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Every dot of a straight line."""
    across, down = end[0] - start[0], end[1] - start[1]
    steps = max(abs(across), abs(down), 1)
    for step in range(steps + 1):
        yield start[0] + round(across * step / steps), start[1] + round(down * step / steps)


# -- SVG -------------------------------------------------------------------------------------------

_WIDTH, _PANEL_HEIGHT = 760, 168
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 20, 34, 28
_AREA_WIDTH, _AREA_HEIGHT = _WIDTH - _LEFT - _RIGHT, _PANEL_HEIGHT - _TOP - _BOTTOM
# Each is told from a white ground and from a black one.
_INK, _FAINT, _LINE = "#7d838c", "#8a909a", "#2f81d7"
_FONT = "font-family=\"system-ui, 'DejaVu Sans', Arial, sans-serif\""
# The axis of time is in the unit in which its numbers stay small.
_TIME_UNITS = ((3 * 3600.0, 3600.0, "h"), (180.0, 60.0, "min"), (0.0, 1.0, "s"))


def draw_svg(all_series: Sequence[Series]) -> str:
    """One document by itself, a panel a series, one below the other on the same axis of time."""
    last_s = max((at_s for one in all_series for at_s, _ in _sort_out(one.points)), default=0.0)
    height = max(len(all_series), 1) * _PANEL_HEIGHT
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" {_FONT} font-size="11" fill="{_INK}">'
    ]
    for number, one in enumerate(all_series):
        lines.append(f'<g transform="translate(0 {number * _PANEL_HEIGHT})">')
        lines += _draw_panel(one, last_s)
        lines.append("</g>")
    return "\n".join([*lines, "</svg>", ""])


def _draw_panel(series: Series, last_s: float) -> Iterator[str]:
    name, unit = escape(_clean(series.name)), escape(_clean(series.unit))
    yield f'<text x="{_LEFT}" y="19" font-size="13" font-weight="600">{name}</text>'
    yield f'<text x="{_WIDTH - _RIGHT}" y="19" text-anchor="end">{unit}</text>'
    points = _sort_out(series.points)
    if not points:
        x, y = _LEFT + _AREA_WIDTH / 2, _TOP + _AREA_HEIGHT / 2
        yield f'<text x="{x:g}" y="{y:g}" text-anchor="middle">{_NO_SAMPLES}</text>'
        return
    low, high = _find_range(points)
    if _is_flat(low, high):
        room = abs(high) * 0.1 or 1.0
        low, high = low - room, high + room
    ticks = _choose_ticks(low, high, 4)
    low, high = ticks[0], ticks[-1]
    yield from _draw_values(ticks)
    yield from _draw_times(last_s)
    places = [
        (
            _LEFT + _AREA_WIDTH * (max(at_s, 0.0) / last_s if last_s > 0 else 0.0),
            _TOP + _AREA_HEIGHT * (high - value) / (high - low),
        )
        for at_s, value in points
    ]
    yield from _draw_line(places)


def _draw_values(ticks: Sequence[float]) -> Iterator[str]:
    for value in ticks:
        y = _TOP + _AREA_HEIGHT * (ticks[-1] - value) / (ticks[-1] - ticks[0])
        opacity = "0.9" if value == ticks[0] else "0.25"
        yield (
            f'<path d="M{_LEFT} {y:.1f}h{_AREA_WIDTH}" stroke="{_FAINT}" '
            f'stroke-opacity="{opacity}"/>'
        )
        text = _format(value, ticks[1] - ticks[0])
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'


def _draw_times(last_s: float) -> Iterator[str]:
    one_s, unit = next((one_s, unit) for above_s, one_s, unit in _TIME_UNITS if last_s >= above_s)
    bottom = _TOP + _AREA_HEIGHT
    last = last_s / one_s
    ticks = [tick for tick in _choose_ticks(0.0, last or 1.0, 8) if tick <= last]
    for tick in ticks:
        x = _LEFT + _AREA_WIDTH * (tick / last if last else 0.0)
        text = _format(tick, last or 1.0) + (f" {unit}" if tick == ticks[-1] else "")
        yield f'<path d="M{x:.1f} {bottom}v4" stroke="{_FAINT}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{text}</text>'


def _draw_line(places: Sequence[Point]) -> Iterator[str]:
    if len(places) == 1:
        x, y = places[0]
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{_LINE}"/>'
        return
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in _thin_out(places))
    yield (
        f'<polyline points="{drawn}" fill="none" stroke="{_LINE}" stroke-width="1.5" '
        f'stroke-linejoin="round" stroke-linecap="round"/>'
    )


def _thin_out(places: Sequence[Point]) -> Iterator[Point]:
    """Of each pixel's column the first, the highest, the lowest and the last: more is not seen."""
    for _, grouped in itertools.groupby(places, key=lambda place: int(place[0])):
        column = list(grouped)
        by_height = sorted(range(len(column)), key=lambda at: column[at][1])
        kept = sorted({0, by_height[0], by_height[-1], len(column) - 1})
        yield from (column[at] for at in kept)


# -- numbers and names -----------------------------------------------------------------------------


_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"))
_MOST_DECIMALS = 6


def _choose_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers, each 1, 2 or 5 times a power of ten from the next, that reach around both."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def _format(value: float, span: float) -> str:
    """As many decimals as tell values apart of which the greatest and least differ by a span."""
    if abs(value) >= 1e15:
        return f"{value:.4g}"
    for one, letter in _LARGE:
        if abs(value) >= one:
            return _format(value / one, span / one) + letter
    told = span or abs(value)
    decimals = min(max(1 - math.floor(math.log10(told)), 0), _MOST_DECIMALS) if told else 0
    text = f"{value:,.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _find_range(points: Sequence[Point]) -> Point:
    values = [value for _, value in points]
    return min(values), max(values)


def _is_flat(low: float, high: float) -> bool:
    """Equal, as far as floating point can tell with something left for ticks between them."""
    return high - low <= max(abs(low), abs(high)) * 1e-9 + 1e-12


def _sort_out(points: Iterable[Point]) -> list[Point]:
    """Those that are numbers: a comparison with NaN is false."""
    return [(at_s, value) for at_s, value in points if abs(at_s) < 1e100 and abs(value) < 1e100]


def _clean(text: str) -> str:
    """Without what moves a terminal's cursor or is not XML's (control characters, surrogates)."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)

"""What was sampled, as text and as SVG: labels, places, and nothing that breaks either."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from soaking.plot import Series, draw_svg, draw_text

SVG = "{http://www.w3.org/2000/svg}"
RISING = Series("memory", "MiB", ((0.0, 10.0), (60.0, 40.0)))
# What Series.points may hold at the worst: times and values of any size, NaN and infinities.
ANY_POINTS = st.lists(
    st.tuples(st.floats(min_value=0, allow_infinity=False), st.floats()), max_size=30
).map(tuple)


def read_texts(svg: str) -> list[str]:
    return [one.text or "" for one in ET.fromstring(svg).iter(f"{SVG}text")]


def read_line(svg: str) -> list[tuple[float, float]]:
    """The places of the first line that it draws."""
    line = next(ET.fromstring(svg).iter(f"{SVG}polyline"))
    places = (place.split(",") for place in line.attrib["points"].split())
    return [(float(x), float(y)) for x, y in places]


def has_dots(text: str) -> bool:
    return any("\u2801" <= one <= "\u28ff" for one in text)


# -- text ------------------------------------------------------------------------------------------


def test_text_is_labelled_with_both_ends_of_both_axes() -> None:
    heading, *rows, rule, times = draw_text(RISING, columns=40, rows=5)
    assert heading == "memory"
    assert len(rows) == 5
    assert rows[0].startswith("40 MiB ┤")
    assert rows[-1].startswith("10 MiB ┤")
    assert all(row.startswith("       │") for row in rows[1:-1])
    assert rule.lstrip() == "└" + "─" * 32
    assert times.split() == ["0", "60", "s"]
    assert {len(rule), len(times), max(map(len, rows))} == {40}


def test_text_shows_a_line_that_rises_from_left_to_right() -> None:
    rows = draw_text(RISING, columns=40, rows=5)[1:6]
    firsts = [next(at for at, one in enumerate(row) if has_dots(one)) for row in rows]
    assert firsts == sorted(set(firsts), reverse=True)
    # Both ends are in the corners.
    assert has_dots(rows[0][-1]) and has_dots(rows[-1][8])


def test_text_keeps_a_spike_among_many_points() -> None:
    points = tuple((float(at), 1000.0 if at == 5000 else 1.0) for at in range(10_000))
    rows = draw_text(Series("stall", "ms", points))[1:7]
    assert rows[0].startswith("1,000 ms ┤")
    assert all(has_dots(row) for row in rows)


@pytest.mark.parametrize(
    "points", [((3.0, 7.0),), ((0.0, 7.0), (3.0, 7.0)), ((0.0, 7.0), (3.0, 7.0 + 1e-14))]
)
def test_equal_values_have_one_label_where_their_line_is(
    points: tuple[tuple[float, float], ...],
) -> None:
    rows = draw_text(Series("one", "x", points))[1:7]
    told = [row for row in rows if "┤" in row]
    assert [row for row in rows if has_dots(row)] == told
    assert [row.split()[:2] for row in told] == [["7", "x"]]


def test_nothing_sampled_is_told_so() -> None:
    never = Series("memory", "MiB", ((0.0, math.nan), (1.0, math.inf)))
    assert draw_text(never) == draw_text(Series("memory", "MiB", ()))
    assert "no samples" in draw_text(never)[1]


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.0, 0.035, ("0.035", "0")),
        (12.0, 15.0, ("15", "12")),
        (1234.0, 98_765.0, ("98,765", "1,234")),
        (4.5e9, 5e9, ("5G", "4.5G")),
        (-0.2, 1.0, ("1", "-0.2")),
    ],
)
def test_labels_have_the_decimals_that_tell_them_apart(
    low: float, high: float, told: tuple[str, str]
) -> None:
    rows = draw_text(Series("any", "", ((0.0, low), (1.0, high))))[1:7]
    assert (rows[0].split()[0], rows[-1].split()[0]) == told


def test_no_name_reaches_the_terminal_as_a_command() -> None:
    lines = draw_text(Series("a\x1b[2Jb\nc\ud800", "\r", RISING.points))
    assert all(line.isprintable() for line in lines)


@given(ANY_POINTS, st.integers(30, 120), st.integers(1, 10))
def test_text_takes_whatever_was_sampled(
    points: tuple[tuple[float, float], ...], columns: int, rows: int
) -> None:
    lines = draw_text(Series("any", "s", points), columns, rows)
    assert len(lines) in (2, rows + 3)
    assert max(map(len, lines)) <= columns


# -- SVG -------------------------------------------------------------------------------------------


def test_svg_has_a_panel_for_each_series_on_one_axis_of_time() -> None:
    short = Series("descriptors", "", ((0.0, 3.0), (30.0, 5.0)))
    svg = draw_svg([RISING, short])
    texts = read_texts(svg)
    assert [text for text in texts if text in ("memory", "descriptors")] == [
        "memory",
        "descriptors",
    ]
    assert texts.count("60 s") == 2
    long_right, short_right = (read_line(draw_svg([RISING, one]))[-1] for one in (RISING, short))
    assert long_right == short_right  # both read the first line
    assert read_line(draw_svg([short, RISING]))[-1][0] < long_right[0]


@pytest.mark.parametrize(
    ("last_s", "told"), [(9.0, "8 s"), (170.0, "150 s"), (600.0, "10 min"), (36_000.0, "10 h")]
)
def test_times_are_in_the_unit_that_keeps_them_small(last_s: float, told: str) -> None:
    assert told in read_texts(draw_svg([Series("any", "", ((0.0, 1.0), (last_s, 2.0)))]))


def test_ticks_are_round_and_reach_around_the_values() -> None:
    svg = draw_svg([Series("any", "", ((0.0, 38.3), (9.0, 40.7)))])
    assert [text for text in ("38", "39", "40", "41") if text in read_texts(svg)] == [
        "38",
        "39",
        "40",
        "41",
    ]


def test_svg_thins_out_but_keeps_a_spike() -> None:
    points = tuple((at / 100, 1000.0 if at == 5000 else 1.0) for at in range(100_000))
    svg = draw_svg([Series("stall", "ms", points)])
    heights = [y for _, y in read_line(svg)]
    assert len(svg) < 100_000
    assert heights.count(min(heights)) == 1


def test_one_point_is_a_dot() -> None:
    root = ET.fromstring(draw_svg([Series("one", "x", ((3.0, 7.0),))]))
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    assert not list(root.iter(f"{SVG}polyline"))


def test_svg_of_nothing() -> None:
    assert ET.fromstring(draw_svg([])).tag == f"{SVG}svg"
    assert read_texts(draw_svg([Series("memory", "MiB", ())])) == ["memory", "MiB", "no samples"]


@given(st.text(), st.text())
def test_any_name_is_valid_xml(name: str, unit: str) -> None:
    texts = read_texts(draw_svg([Series(name, unit, RISING.points)]))
    # What a parser gives back is what was there, where that was printable.
    if name.isprintable():
        assert texts[0] == name
    svg = draw_svg([Series(name, unit, RISING.points)])
    assert "<script" not in svg
    svg.encode()


@given(ANY_POINTS)
def test_svg_takes_whatever_was_sampled_and_draws_within_its_area(
    points: tuple[tuple[float, float], ...],
) -> None:
    svg = draw_svg([Series("any", "s", points)])
    _, _, width, height = (float(one) for one in ET.fromstring(svg).attrib["viewBox"].split())
    if "<polyline" in svg:
        assert all(0 <= x <= width and 0 <= y <= height for x, y in read_line(svg))

"""Columns that fit a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.status.cells import Cell, Color, Style, cut, indent, lay_out, measure

TEXT = st.text(st.sampled_from("ab 漢e\u0301…"), max_size=12)


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("", 0), ("a\u200bb", 2)]
)
def test_how_wide_text_is(text: str, columns: int) -> None:
    assert measure(text) == columns


@pytest.mark.parametrize(
    ("width", "shown"), [(9, "chat-pool"), (8, "chat-po…"), (2, "c…"), (1, "…"), (0, "")]
)
def test_what_is_cut_says_that_there_was_more(width: int, shown: str) -> None:
    assert cut("chat-pool", width, "…") == shown


def test_a_wide_character_is_not_cut_through() -> None:
    assert cut("漢字漢", 4, "…") == "漢…"


@given(
    st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(0, 2),
)
def test_no_line_is_wider_than_the_terminal(
    rows: list[tuple[str, str, str]], columns: int, flexible: int
) -> None:
    cells = [[Cell(a), Cell(b, Color.RED), Cell(c, is_right=True)] for a, b, c in rows]
    for line in lay_out(cells, flexible, Style(columns)):
        assert measure(line) <= columns
    for line in indent(" ".join(map("".join, rows)), Style(columns)):
        assert measure(line) <= columns


def test_the_flexible_column_gives_way() -> None:
    row = [Cell("chat"), Cell("a-model-of-some-length"), Cell("0", is_right=True)]
    head = [Cell("POOL"), Cell("MODEL"), Cell("N", is_right=True)]
    assert lay_out([head, row], 1, Style(20, has_blocks=True)) == [
        "POOL  MODEL        N",
        "chat  a-model-of…  0",
    ]
    assert lay_out([head, row], 1, Style()) == [
        "POOL  MODEL                   N",
        "chat  a-model-of-some-length  0",
    ]


def test_color_takes_no_room() -> None:
    rows = [[Cell("ready", Color.GREEN), Cell("x")]]
    assert lay_out(rows, 0, Style(9, has_color=True)) == ["\x1b[32mready\x1b[0m  x"]
    assert lay_out(rows, 0, Style(9)) == ["ready  x"]


def test_a_sentence_is_whole_under_its_row() -> None:
    assert indent("one two three", Style(8)) == ["  one", "  two", "  three"]
    assert indent("one two three", Style()) == ["  one two three"]
    assert indent("漢字漢", Style(7)) == ["  漢字", "  漢"]

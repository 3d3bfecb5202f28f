"""An engine's output: lines, tail, last words, and bounds on all of them."""

from __future__ import annotations

import time
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.output import (
    BURST_LINES,
    LINE_BYTES,
    LINES_PER_S,
    SEARCHED_LINES,
    TAIL_LINES,
    EngineOutput,
)


def lines(count: int) -> bytes:
    return b"".join(b"line %d\n" % n for n in range(count))


def test_lines_are_cut_however_they_are_torn() -> None:
    output = EngineOutput(0)
    logged = [
        line
        for piece in (b"on", b"e\ntw", b"o\r\n\n \n\x1c\nthr", b"ee\n")
        for line in output.feed(piece, 0)
    ]
    assert logged == ["one", "two", "three"]
    assert output.tail == ("one", "two", "three")


def test_a_flood_is_limited_and_what_was_left_out_is_told() -> None:
    output = EngineOutput(0)
    assert len(output.feed(lines(BURST_LINES + 50), 0)) == BURST_LINES
    assert output.feed(lines(7), 0) == []
    assert output.feed(b"later\n", 0.5) == ["... 57 lines left out", "later"]
    assert output.feed(b"and more\n", 0.5) == ["and more"]


def test_the_allowance_grows_with_time_up_to_one_burst() -> None:
    output = EngineOutput(0)
    output.feed(lines(BURST_LINES), 0)
    assert output.feed(b"none\n", 0) == []
    told = 1  # the line about those left out
    assert len(output.feed(lines(BURST_LINES), 2)) == 2 * LINES_PER_S + told
    assert len(output.feed(lines(2 * BURST_LINES), 1000)) == BURST_LINES + told


def test_the_tail_holds_the_last_lines_logged_or_not() -> None:
    output = EngineOutput(0)
    output.feed(lines(1000), 0)
    assert output.tail == tuple(f"line {n}" for n in range(1000 - TAIL_LINES, 1000))


def test_lines_before_the_tail_are_kept_to_be_searched() -> None:
    output = EngineOutput(0)
    for n in range(SEARCHED_LINES + 10):
        output.feed(b"line %d\n" % n, 0)
    output.feed(b"unended", 0)
    assert len(output.searched_lines) == SEARCHED_LINES
    assert output.searched_lines[0] == "line 11"
    assert output.searched_lines[-TAIL_LINES:] == output.tail
    assert output.tail[-1] == "unended"


def test_the_tail_is_the_same_however_the_lines_come() -> None:
    whole, torn = EngineOutput(0), EngineOutput(0)
    said = b"\n\n".join(b"line %d" % n for n in range(200)) + b"\n\n\n"
    whole.feed(said, 0)
    for n in range(len(said)):
        torn.feed(said[n : n + 1], 0)
    assert whole.tail == torn.tail == tuple(f"line {n}" for n in range(150, 200))


def test_blank_lines_beyond_measure_cost_the_lines_before_them() -> None:
    output = EngineOutput(0)
    output.feed(lines(100) + b"\n" * 1000 + b"end\n", 0)
    assert output.tail == ("end",)


def test_a_bar_that_overwrites_itself_is_a_line_each_time() -> None:
    output = EngineOutput(0)
    assert output.feed(b"\rloading 10%\rloading 20%\r", 0) == ["loading 10%", "loading 20%"]


def test_a_flood_costs_little_more_than_to_count_its_lines() -> None:
    """Against a plain count of the same bytes, in the same run, by CPU time."""
    piece = (b"x" * 12 + b"\n") * 5000
    output = EngineOutput(0)
    began_s = time.process_time()
    for _ in range(400):
        output.feed(piece, 0)
    fed_s = time.process_time() - began_s
    began_s = time.process_time()
    for _ in range(400):
        piece.split(b"\n")
    assert fed_s < time.process_time() - began_s


def test_a_long_line_is_cut_where_it_begins() -> None:
    output = EngineOutput(0)
    assert output.feed(b"begin" + b"x" * 5000 + b"\n", 0) == ["begin" + "x" * (LINE_BYTES - 5)]


def test_a_long_line_in_pieces_is_cut_just_so() -> None:
    output = EngineOutput(0)
    logged = [line for _ in range(10) for line in output.feed(b"begin" + b"x" * 500, 0)]
    assert logged == []
    assert output.feed(b"end\nnext\n", 0) == [
        ("begin" + "x" * 500) + ("begin" + "x" * 490),
        "next",
    ]


def test_ten_megabytes_without_a_line_end_stay_bounded() -> None:
    output = EngineOutput(0)
    piece = b"x" * 65536
    tracemalloc.start()
    for _ in range(160):
        output.feed(piece, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert len(output.last_words) == LINE_BYTES


def test_bytes_that_are_no_utf8_do_no_harm() -> None:
    assert EngineOutput(0).feed(b"a\xff\xfeb\n", 0) == [
        "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}b"
    ]


def test_every_byte_is_counted() -> None:
    output = EngineOutput(0)
    output.feed(b".", 0)
    output.feed(b"\n\n", 0)
    assert output.size_bytes == 3


def test_last_words_are_the_last_two_lines_that_name_an_error() -> None:
    output = EngineOutput(0)
    assert output.last_words == ""
    output.feed(b"loading\nbye\n", 0)
    assert output.last_words == "bye"
    output.feed(b"ERROR: first\nit Failed at x\nexiting\n", 0)
    assert output.last_words == "ERROR: first; it Failed at x"


def test_last_words_of_llama_cpp_hold_the_cause_before_the_farewell() -> None:
    output = EngineOutput(0)
    output.feed(b"srv start: couldn't bind HTTP server socket, port: 18700\n", 0)
    output.feed(b"srv clean_up: cleaning up before exit...\n", 0)
    output.feed(b"srv init: exiting due to HTTP server error\n", 0)
    assert output.last_words == (
        "srv start: couldn't bind HTTP server socket, port: 18700;"
        " srv init: exiting due to HTTP server error"
    )


def test_the_last_line_is_that_whatever_stood_before_it() -> None:
    output = EngineOutput(0)
    assert output.last_line == ""
    output.feed(b"error: of long ago\nserving\nslot rel", 0)
    assert output.last_line == "slot rel"


def test_last_words_without_a_line_end_count() -> None:
    output = EngineOutput(0)
    output.feed(b"loading\nfatal error: no me", 0)
    output.feed(b"mory", 0)
    assert output.last_words == "fatal error: no memory"
    assert output.tail == ("loading", "fatal error: no memory")


@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_whatever_comes_the_tail_is_bounded_text(pieces: list[bytes]) -> None:
    output = EngineOutput(0)
    for n, piece in enumerate(pieces):
        output.feed(piece, n)
    assert len(output.tail) <= TAIL_LINES
    assert all(0 < len(line) <= LINE_BYTES and "\n" not in line for line in output.tail)

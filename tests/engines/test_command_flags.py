"""Flags of an engine's command line, however they are spelled."""

from __future__ import annotations

import pytest

from orchd.engines.command_flags import Flags, find_joined_flags, flag_of


def test_spellings_are_one() -> None:
    flags = Flags(["--a_b", "1", "--c=x=y", "plain", "-d", "--e"])
    assert flags.text(("--a-b",), "") == "1"
    assert flags.text(("--c",), "") == "x=y"
    assert flags.has(("--e",)) and flags.has(("--x", "-d")) and not flags.has(("plain",))
    assert flag_of("--a_b=c_d") == "--a-b"
    assert flag_of("c_d") == "c_d"


@pytest.mark.parametrize("word", ["--n 1", "--n\t1", "-c 5", "--n  '1=2'", '--json {"a": 1}'])
def test_a_flag_that_is_joined_with_its_value_is_told(word: str) -> None:
    (fault,) = find_joined_flags("args", ["--n", "1", word])
    assert str(fault).startswith(f"args[2]: holds {word.split()[0]} and its value: write each as a")


@pytest.mark.parametrize("word", ["--n", "--n=a b", "a b", "-5 a", "", "--", "{ --n }", "- x"])
def test_other_words_may_hold_blanks(word: str) -> None:
    assert list(find_joined_flags("args", [word])) == []


def test_the_last_counts_and_what_is_no_number_is_unsaid() -> None:
    flags = Flags(["--n", "1", "--n=2", "--m", "two", "--big", "9" * 10])
    assert flags.number(("--n",), 0) == 2
    assert list(flags.every("--n")) == ["1", "2"]
    assert flags.number(("--m",), 7) == flags.number(("--big",), 7) == flags.number(("-z",), 7) == 7

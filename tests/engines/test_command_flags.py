"""Flags of an engine's command line, however they are spelled."""

from __future__ import annotations

from orchd.engines.command_flags import Flags, flag_of


def test_spellings_are_one() -> None:
    flags = Flags(["--a_b", "1", "--c=x=y", "plain", "-d", "--e"])
    assert flags.text(("--a-b",), "") == "1"
    assert flags.text(("--c",), "") == "x=y"
    assert flags.has(("--e",)) and flags.has(("--x", "-d")) and not flags.has(("plain",))
    assert flag_of("--a_b=c_d") == "--a-b"
    assert flag_of("c_d") == "c_d"


def test_the_last_counts_and_what_is_no_number_is_unsaid() -> None:
    flags = Flags(["--n", "1", "--n=2", "--m", "two", "--big", "9" * 10])
    assert flags.number(("--n",), 0) == 2
    assert list(flags.every("--n")) == ["1", "2"]
    assert flags.number(("--m",), 7) == flags.number(("--big",), 7) == flags.number(("-z",), 7) == 7

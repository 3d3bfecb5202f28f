"""Every command's flags, and what is told of them: help, exit codes, completion."""

from __future__ import annotations

import argparse
import re
import subprocess
from pathlib import Path

import pytest

from orchd.command_line import build_parser

COMPLETION = Path(__file__).parents[1] / "tools/completion.bash"
README = Path(__file__).parents[1] / "README.md"
TAKES_ANY = {"--pool", "--max-tokens", "--seed"}


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(action.choices)


def flags_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """By the long name of each."""
    actions = (action for action in parser._actions if action.option_strings)
    return {action.option_strings[-1]: action for action in actions}


@pytest.mark.parametrize("name", ["", *commands()])
def test_help_tells_every_exit_code_and_an_example(name: str) -> None:
    told = (commands()[name] if name else build_parser()).format_help()
    codes = re.findall(r"^  (\d+) +\w", told.partition("\nexit codes")[2], re.MULTILINE)
    assert codes[:3] == ["0", "1", "2"]
    if name:
        assert f"\n  orchd {name}" in told.partition("\nexample")[2] or f"| orchd {name}" in told
    assert max(map(len, told.splitlines())) <= 100


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e9", "soon", ""])
def test_an_interval_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["status", "--watch", text])
    assert caught.value.code == 2
    assert "must be a number of seconds from 0.1 to 3600" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "watch"), [((), None), (("--watch",), 2.0), (("--watch", "0.5"), 0.5)]
)
def test_how_often_it_is_watched(words: tuple[str, ...], watch: float | None) -> None:
    assert build_parser().parse_args(["status", *words]).watch == watch


def test_a_watch_is_for_people() -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["status", "--watch", "--json"])


# -- completion --------------------------------------------------------------------------------


def complete(*words: str) -> list[str]:
    """What bash offers for the last of the words behind ``orchd``."""
    script = f"""
        source {COMPLETION}
        COMP_WORDS=(orchd "$@") COMP_CWORD=$#
        _orchd
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-euc", script, "bash", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_every_command_and_every_flag() -> None:
    names = commands()
    assert set(complete("")) == {*names, "help", *flags_of(build_parser())}
    assert set(complete("help", "")) == set(names)
    for name, parser in names.items():
        flags = flags_of(parser)
        assert set(complete(name, "")) == set(flags), name
        for flag, action in flags.items():
            if action.choices is not None:
                assert set(complete(name, flag, "")) == set(action.choices)
            elif action.nargs is None and flag != "--config":
                assert flag in TAKES_ANY
                assert complete(name, flag, "") == []
    assert complete("st") == ["status"]
    assert complete("ask", "--prio") == ["--priority"]


def test_bash_completes_files(tmp_path: Path) -> None:
    (tmp_path / "a b.toml").touch()
    done = complete("serve", "--config", f"{tmp_path}/a")
    assert " ".join(done) == f"{tmp_path}/a b.toml"

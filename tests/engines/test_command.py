"""The command template: what it may hold, and what becomes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.config.model import PoolConfig
from orchd.engines.command import (
    PLACEHOLDERS,
    fill_command,
    fill_environment,
    find_command_faults,
    holds,
    refuse_command,
)

VALUES = {"host": "127.0.0.1", "port": "4711", "model": "{port} m", "api_key": "the-key"}


def faults(*command: str) -> list[str]:
    return [str(fault) for fault in find_command_faults(command)]


@pytest.mark.parametrize(
    ("word", "filled"),
    [
        ("--port", "--port"),
        ("{port}", "4711"),
        ("--port={port}", "--port=4711"),
        ("http://{host}:{port}/", "http://127.0.0.1:4711/"),
        ("{{port}}", "{port}"),
        ("{{{port}}}", "{4711}"),
        ('{{"a": {{"key": "{api_key}"}}}}', '{"a": {"key": "the-key"}}'),
        # What is filled in is not looked at again.
        ("{model}{model}", "{port} m{port} m"),
        ("", ""),
        ("$HOME %s \\{{", "$HOME %s \\{"),
    ],
)
def test_what_stands_in_braces_is_filled_in(word: str, filled: str) -> None:
    assert faults("x", "{port}", word) == []
    assert fill_command([word], VALUES) == [filled]


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("{", "holds a single {; a brace itself is written {{"),
        ("}", "holds a single }; a brace itself is written }}"),
        ("{port", "holds a single {; a brace itself is written {{"),
        ("{port}}", "holds a single }; a brace itself is written }}"),
        ("{ports}", "holds {ports}, which is no placeholder; known are {host}, {port}, {model}, "),
        ("{}", "holds {}, which is no placeholder"),
        ("{ port }", "holds { port }, which is no placeholder"),
        ("{PORT}", "holds {PORT}, which is no placeholder"),
        ('{"a": 1}', 'holds {"a": 1}, which is no placeholder'),
        ("{%s}" % ("x" * 999), "holds {%s…, which is" % ("x" * 29)),
    ],
)
def test_other_braces_are_faults_with_their_mend(word: str, problem: str) -> None:
    (fault,) = faults("x", "{port}", word)
    assert fault.startswith(f"command[2]: {problem}")
    assert "a brace itself is written" in fault


def test_every_fault_is_told() -> None:
    assert len(faults("x", "{port}", "{a}{b}{")) == 3


@pytest.mark.parametrize("program", ["", "{model}", "{{x}}", "a{"])
def test_the_program_is_named_as_it_is(program: str) -> None:
    (fault,) = faults(program, "{port}")
    assert fault.startswith("command[0]: must be the server's program alone: a path, or a name")


@pytest.mark.parametrize("command", [("x",), ("x", "--port", "8000"), ("x", "{{port}}")])
def test_the_port_must_be_in_it(command: tuple[str, ...]) -> None:
    (fault,) = faults(*command)
    assert fault.startswith("command: must hold {port} somewhere")


def test_without_one_it_is_asked_for_with_an_example() -> None:
    (fault,) = faults()
    assert fault.startswith('command: is required: what starts the server, such as ["python", ')


def test_other_engines_have_none() -> None:
    pool = PoolConfig(id="c", engine="llamacpp", model="/m")
    assert list(refuse_command(pool)) == []
    (fault,) = refuse_command(
        PoolConfig(id="c", engine="llamacpp", model="/m", command=("x", "{port}"))
    )
    assert str(fault).startswith('command: is for engine "openai" alone; write its program as bin')


def test_what_it_holds_is_found_past_escapes() -> None:
    assert holds(["x", "{{port}} {port}"], "port")
    assert not holds(["x", "{{port}}", "port"], "port")


def test_in_the_environment_the_key_alone_is_filled_in() -> None:
    env = {"A": "{api_key}", "B": "Bearer {api_key}", "C": '{"port": "{port}"}', "D": ""}
    assert fill_environment(env, "the-key") == {
        "A": "the-key",
        "B": "Bearer the-key",
        "C": '{"port": "{port}"}',
        "D": "",
    }


pieces = st.sampled_from(["{", "}", "{{", "}}", "x", *(f"{{{name}}}" for name in PLACEHOLDERS)])


@given(st.lists(pieces).map("".join) | st.text())
def test_whatever_has_no_fault_can_be_filled_in(word: str) -> None:
    if not faults("x", "{port}", word):
        fill_command([word], VALUES)


@given(st.text())
def test_doubled_braces_are_braces(text: str) -> None:
    word = text.replace("{", "{{").replace("}", "}}")
    assert fill_command([word], VALUES) == [text]

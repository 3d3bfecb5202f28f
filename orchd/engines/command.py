"""The command template of engine ``openai``: what stands in braces is filled in at each start.

``{{`` and ``}}`` are braces themselves. In the values of ``env`` only ``{api_key}`` is filled in:
values are JSON at times, and full of braces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from orchd.config.model import PoolConfig
from orchd.errors import Fault

PLACEHOLDERS = ("host", "port", "model", "api_key")
KEY_VARIABLE = "ORCHD_ENGINE_KEY"
"""Always in the engine's environment, for commands that are scripts."""
KEY = "{api_key}"
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_SHOWN_CHARS = 30
_KNOWN = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)


def refuse_command(pool: PoolConfig) -> Iterator[Fault]:
    """What every engine but ``openai`` has against one."""
    if pool.command:
        mend = "write its program as binary and its flags as args"
        yield Fault("command", f'is for engine "openai" alone; {mend}')


def find_command_faults(command: Sequence[str]) -> Iterator[Fault]:
    """What is wrong with a template; paths count from the pool."""
    if not command:
        example = '["python", "/opt/server.py", "--host", "{host}", "--port", "{port}"]'
        yield Fault("command", f"is required: what starts the server, such as {example}")
        return
    if not command[0] or _BRACES.search(command[0]):
        problem = "must be the server's program alone: a path, or a name on PATH"
        yield Fault("command[0]", f"{problem}; each word behind it is a string of its own")
    for n, word in enumerate(command[1:], 1):
        for problem in _find_problems(word):
            yield Fault(f"command[{n}]", problem)
    if not holds(command, "port"):
        yield Fault("command", "must hold {port} somewhere: the daemon chooses the server's port")


def holds(command: Sequence[str], name: str) -> bool:
    """Whether that placeholder is anywhere in it."""
    return any(found[1] == name for word in command for found in _BRACES.finditer(word))


def find_unfilled(pool: PoolConfig) -> Iterator[str]:
    """Where a placeholder stands that is not filled in, as ``args[1] holds {port}``."""
    words = {f"args[{n}]": word for n, word in enumerate(pool.args)}
    words |= {f"env.{name}": value.replace(KEY, "") for name, value in pool.env.items()}
    for place, word in words.items():
        found = [f"{{{name}}}" for name in PLACEHOLDERS if f"{{{name}}}" in word]
        if found:
            yield f"{place} holds {found[0]}"


def fill_command(command: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The command line, each placeholder by its value."""

    def fill(found: re.Match[str]) -> str:
        return found[0][0] if found[1] is None else values[found[1]]

    return [_BRACES.sub(fill, word) for word in command]


def fill_environment(env: Mapping[str, str], key: str) -> dict[str, str]:
    """A pool's environment with the engine's key where it is asked for."""
    return {name: value.replace(KEY, key) for name, value in env.items()}


def _find_problems(word: str) -> Iterator[str]:
    for found in _BRACES.finditer(word):
        if found[0] in ("{", "}"):
            yield f"holds a single {found[0]}; a brace itself is written {2 * found[0]}"
        elif found[1] is not None and found[1] not in PLACEHOLDERS:
            name = found[0] if len(found[0]) <= _SHOWN_CHARS else f"{found[0][:_SHOWN_CHARS]}…"
            mend = "a brace itself is written {{ or }}"
            yield f"holds {name}, which is no placeholder; known are {_KNOWN}; {mend}"

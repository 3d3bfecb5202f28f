"""Reads the flags of an engine's command line, as far as they matter to orchd.

llama.cpp and vLLM both take underscores in a flag for dashes, ``--flag=value`` for ``--flag
value``, and of a flag that comes twice the last (llama.cpp's ``common/arg.cpp``; vLLM's
``FlexibleArgumentParser``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orchd.errors import Fault

_JOINED = re.compile(r"(--?[A-Za-z][\w-]{0,60})\s")


def flag_of(argument: str) -> str:
    """The flag that an argument is, spelled with dashes; any other argument as it stands."""
    name = argument.partition("=")[0]
    return name.replace("_", "-") if name.startswith("-") else argument


def find_joined_flags(key: str, words: Sequence[str]) -> Iterator[Fault]:
    """Words that no program takes: a flag and its value with a blank between them."""
    for n, word in enumerate(words):
        if (joined := _JOINED.match(word)) is not None:
            problem = f"holds {joined[1]} and its value: write each as a string of its own"
            yield Fault(f"{key}[{n}]", problem)


class Flags:
    """A command line's flags."""

    def __init__(self, args: Sequence[str]) -> None:
        self._values: dict[str, list[str]] = {}
        for n, argument in enumerate(args):
            if argument.startswith("-"):
                _, is_joined, value = argument.partition("=")
                following = args[n + 1] if n + 1 < len(args) else ""
                values = self._values.setdefault(flag_of(argument), [])
                values.append(value if is_joined else following)

    def has(self, names: Sequence[str]) -> bool:
        return any(name in self._values for name in names)

    def every(self, name: str) -> Sequence[str]:
        """All values of a flag that may come several times."""
        return self._values.get(name, [])

    def text(self, names: Sequence[str], default: str) -> str:
        given = [value for name in names for value in self._values.get(name, [])[-1:]]
        return given[-1].lower() if given else default

    def number(self, names: Sequence[str], default: int) -> int:
        """What is no number counts as unsaid: the engine will refuse it in its own words."""
        text = self.text(names, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default

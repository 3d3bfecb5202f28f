"""Reads the README as its tests need it: every fenced block, with what stands around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PORT, MODELS, HOME = "8642", '"/models/', "/home/you"
"""What an example has to name, and a test's machine has in another place."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    number: int
    section: str
    language: str
    """Empty where the fence names none."""
    text: str

    @property
    def is_program(self) -> bool:
        """A whole file, and not lines for a terminal."""
        return self.language == "python" or self.text.startswith("#!")

    def __str__(self) -> str:
        return f"{self.number} {self.language} of {self.section}"


def read_blocks(text: str | None = None) -> list[Block]:
    """All of them, in order."""
    whole = README.read_text() if text is None else text
    found: list[tuple[str, str, list[str]]] = []
    title, is_inside = "", False
    for line in whole.splitlines(keepends=True):
        if line.startswith("```"):
            if not is_inside:
                found.append((title, line[3:].strip(), []))
            is_inside = not is_inside
        elif is_inside:
            found[-1][2].append(line)
        elif line.startswith("#"):
            title = line.strip("# \n")
    assert not is_inside, "a block is not closed"
    return [
        Block(number, title, language, "".join(lines))
        for number, (title, language, lines) in enumerate(found)
    ]

"""Gates at which the fake engine waits, so that a test decides when the next token comes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

_numbers = count()


class Gate:
    """One FIFO; the engine takes a byte out of it before each token but the first."""

    def __init__(self, path: Path) -> None:
        self.wish = f"[gate {path.name}]"
        """What a prompt must hold for its tokens to wait here."""
        self._path = path
        os.mkfifo(path)
        # For reading too, so that neither side waits for the other to open its end.
        self._pipe = os.open(path, os.O_RDWR)

    def let_through(self, tokens: int = 1) -> None:
        """Let so many tokens come."""
        os.write(self._pipe, bytes(tokens))

    def close(self) -> None:
        """Whoever waits goes on; whoever comes later finds no gate, and fails."""
        self._path.unlink()
        self.let_through(1000)
        os.close(self._pipe)


@contextlib.contextmanager
def gate_in(folder: Path) -> Iterator[Gate]:
    """A gate of its own in the folder that the engine was told of."""
    gate = Gate(folder / str(next(_numbers)))
    try:
        yield gate
    finally:
        gate.close()

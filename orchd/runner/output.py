"""An engine's output: cut into lines, the last ones kept, what goes to our log limited.

A flood costs a bounded share of everything: of a piece of output no more lines are cut than may be
logged or kept, the others are only counted. Long lines are cut short. Invariant: ``tail`` always
holds the last lines, logged or not.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

TAIL_LINES = 50
LINE_BYTES = 1000
BURST_LINES = 200
"""How many lines reach the log at once: what an engine says while it loads."""
LINES_PER_S = 20.0
"""How many more from then on."""

SEARCHED_LINES = 4 * TAIL_LINES
"""How many are kept to find the cause of a death in: tracebacks of those who only heard of it come
behind it. Also enough to find the last ones among blank lines."""
_TROUBLE = ("error", "fail", "couldn't", "cannot")


class EngineOutput:
    """One engine process's output."""

    def __init__(self, now_s: float) -> None:
        self._tail: deque[bytes] = deque(maxlen=SEARCHED_LINES)
        self._rest = b""
        self._allowance = float(BURST_LINES)
        self._refilled_s = now_s
        self._dropped = 0
        self.size_bytes = 0
        """All that it has ever said."""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first; one that has no end yet counts."""
        return self._read_last(TAIL_LINES)

    @property
    def searched_lines(self) -> tuple[str, ...]:
        """The same, and those before them."""
        return self._read_last(SEARCHED_LINES)

    @property
    def last_words(self) -> str:
        """What says best why the engine is gone: the last two lines that name an error.

        Two, for the very last one is often a mere farewell (llama.cpp: "exiting due to ..."). Empty
        where it said nothing.
        """
        tail = self.tail
        named = [line for line in tail if any(word in line.lower() for word in _TROUBLE)]
        return "; ".join(named[-2:] or tail[-1:])

    @property
    def last_line(self) -> str:
        """The very last; empty where it said nothing."""
        return "".join(self.tail[-1:])

    def _read_last(self, count: int) -> tuple[str, ...]:
        kept = list(islice(reversed(self._tail), count))[::-1]
        lines = [text for line in (*kept, self._rest) if (text := _read_line(line))]
        return tuple(lines[-count:])

    def feed(self, data: bytes, now_s: float) -> list[str]:
        """Take a piece of output; return the lines to log."""
        self.size_bytes += len(data)
        # A bar of progress overwrites its line; each state of it is one.
        text = self._rest + data.replace(b"\r", b"\n")
        ended, line_end, rest = text.rpartition(b"\n")
        self._rest = rest[:LINE_BYTES]
        if not line_end:
            return []
        self._keep(ended)
        self._refill(now_s)
        return self._admit(ended)

    def _keep(self, ended: bytes) -> None:
        """Cut off the last lines; whatever stands before them stays in one piece."""
        before, *pieces = ended.rstrip().rsplit(b"\n", SEARCHED_LINES)
        if b"\n" not in before:
            pieces.insert(0, before)
        self._tail.extend(piece[:LINE_BYTES] for piece in pieces if piece.strip())

    def _refill(self, now_s: float) -> None:
        gained = (now_s - self._refilled_s) * LINES_PER_S
        self._allowance = min(self._allowance + gained, BURST_LINES)
        self._refilled_s = now_s

    def _admit(self, ended: bytes) -> list[str]:
        """The first lines, as many as may be logged; the others are counted."""
        admitted = int(self._allowance)
        pieces = ended.split(b"\n", admitted) if admitted else [ended]
        beyond = pieces.pop() if len(pieces) > admitted else None
        lines = [text for piece in pieces if (text := _read_line(piece))]
        self._allowance -= len(lines)
        if lines and self._dropped:
            lines.insert(0, f"... {self._dropped} lines left out")
            self._dropped = 0
        if beyond is not None:
            self._dropped += beyond.count(b"\n") + 1
        return lines


def _read_line(line: bytes) -> str:
    return line[:LINE_BYTES].decode("utf-8", "replace").strip()

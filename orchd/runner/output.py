"""An engine's output: cut into lines, the last ones kept, what goes to our log limited.

A flood costs a bounded share of it: lines beyond the rate are counted and not logged, long lines
are cut. Invariant: ``tail`` always holds the last lines, logged or not.
"""

from __future__ import annotations

from collections import deque

TAIL_LINES = 50
LINE_BYTES = 1000
LINES_PER_S = 100.0
"""Lines a second that reach the log, after a burst of as many."""

_TROUBLE = ("error", "fail", "couldn't", "cannot")


class EngineOutput:
    """One engine process's output."""

    def __init__(self, now_s: float) -> None:
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._rest = b""
        self._allowance = LINES_PER_S
        self._refilled_s = now_s
        self._dropped = 0
        self.last_output_s = now_s
        """When the engine last said anything, for the stall deadline of its load."""

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, oldest first; one that has no end yet counts."""
        unended = _read_line(self._rest)
        return tuple([*self._tail, unended][-TAIL_LINES:] if unended else self._tail)

    @property
    def last_words(self) -> str:
        """What says best why the engine is gone: the last two lines that name an error.

        Two, for the very last one is often a mere farewell (llama.cpp: "exiting due to ...").
        """
        tail = self.tail
        named = [line for line in tail if any(word in line.lower() for word in _TROUBLE)]
        return "; ".join(named[-2:] or tail[-1:]) or "it said nothing"

    def feed(self, data: bytes, now_s: float) -> list[str]:
        """Take a piece of output; return the lines to log."""
        self.last_output_s = now_s
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LINE_BYTES]
        self._refill(now_s)
        return [said for line in lines if (text := _read_line(line)) for said in self._admit(text)]

    def _refill(self, now_s: float) -> None:
        gained = (now_s - self._refilled_s) * LINES_PER_S
        self._allowance = min(self._allowance + gained, LINES_PER_S)
        self._refilled_s = now_s

    def _admit(self, text: str) -> list[str]:
        self._tail.append(text)
        if self._allowance < 1:
            self._dropped += 1
            return []
        self._allowance -= 1
        dropped, self._dropped = self._dropped, 0
        return [f"... {dropped} lines left out", text] if dropped else [text]


def _read_line(line: bytes) -> str:
    return line[:LINE_BYTES].decode("utf-8", "replace").strip()

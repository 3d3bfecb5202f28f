"""Until when a running task may go without progress: a token, or a further piece of its prompt.

Time comes in as an argument. Invariant: what an engine only repeats is no progress.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchd.engines.adapter import PromptProgress


@dataclass(slots=True)
class Reading:
    """The prompts of one replica, all of them together."""

    progress_s: float = -math.inf
    """When any of them was last read further."""


@dataclass(slots=True)
class Progress:
    """One task's, from the moment when it was sent to its replica."""

    _prompt_s: float
    """When its prompt was sent, or last read further."""
    _reading: Reading
    token_s: float | None = None
    """When its last token came. Whoever hears one writes it here and does no more."""
    _read_tokens: int = -1
    _total_tokens: int | None = None
    """As it was told first: a prompt does not grow while it is read."""
    _has_prompt_left: bool = True

    def note_prompt(self, told: PromptProgress, now_s: float) -> None:
        """The engine has told how far it has read the prompt."""
        if self._total_tokens is None:
            self._total_tokens = told.total_tokens
        if self._read_tokens < told.read_tokens <= self._total_tokens:
            self._read_tokens = told.read_tokens
            self._has_prompt_left = told.read_tokens < told.total_tokens
            self._prompt_s = self._reading.progress_s = now_s

    def deadline_s(self, stall_s: float) -> float:
        """When it will have made none for that long, if it makes none any more."""
        if self.token_s is not None:
            return self.token_s + stall_s
        if not self._has_prompt_left:
            return self._prompt_s + stall_s
        # llama.cpp fills its batch slot by slot: while one prompt is read those of other slots
        # wait, also one that was read in part before (measured). Another task's tokens are no such
        # excuse: they take one place of a batch each.
        return max(self._prompt_s, self._reading.progress_s) + stall_s

"""The record of an engine's death: what an operator wants to know of it, once it has happened.

A death is the end of a process that nobody asked for, or that had to be brought about because the
engine failed. Invariant: of each pool the last few are kept, the newest last.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from orchd.runner.exit_status import ExitStatus

KEPT = 5
"""Incidents for each pool."""


@dataclass(frozen=True, slots=True)
class Incident:
    """One death."""

    ended_at: float
    """By the wall clock, in seconds since 1970."""
    replica_id: str
    device: str
    pid: int
    cause: str
    """In words, the engine's last ones included."""
    exit_status: ExitStatus | None
    """None for a process that outlived its SIGKILL."""
    last_lines: tuple[str, ...]
    memory_before_bytes: int | None
    """In use on its GPU, last seen before; None for the CPU, whose memory everybody uses."""
    ready_s: float = 0.0
    """How long it had been ready; 0 where it never was."""
    tasks: tuple[str, ...] = ()
    """Ids of the tasks that it had."""
    memory_after_bytes: int | None = None
    """In use once its own was seen to be back, or was not waited for any longer; None before."""


def describe_death(exit_status: ExitStatus | None, verdict: str, last_words: str) -> str:
    """Why an engine is gone; ``verdict`` is why it was being ended, empty where it went by itself.

    A stream that breaks is often heard of before the exit that broke it, which says why.
    """
    if exit_status is None:
        return f"{verdict or 'was to stop'}; its process cannot be killed"
    if not verdict:
        return f"{exit_status}: {last_words or 'it said nothing'}"
    if not exit_status.is_of_a_stop:
        return f"{verdict}; then {exit_status}: {last_words or 'it said nothing'}"
    return f"{verdict}; its last words: {last_words}" if last_words else verdict


class IncidentLog:
    """Those of one pool."""

    def __init__(self) -> None:
        self._kept: deque[Incident] = deque(maxlen=KEPT)

    def add(self, incident: Incident) -> Callable[[int | None], None]:
        """Keep it; the answer is called with its ``memory_after_bytes`` when that is known."""
        self._kept.append(incident)
        return lambda after_bytes: self._complete(incident, after_bytes)

    def all(self) -> tuple[Incident, ...]:
        return tuple(self._kept)

    def _complete(self, incident: Incident, after_bytes: int | None) -> None:
        # It may be forgotten by then.
        for place, kept in enumerate(self._kept):
            if kept is incident:
                self._kept[place] = replace(incident, memory_after_bytes=after_bytes)

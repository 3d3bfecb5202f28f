"""What a soak has done and found: steps, counts, breaches.

Invariant: nothing but ``breach`` makes a soak fail, and every breach names an invariant.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum

STEPS_KEPT = 60


class Invariant(Enum):
    """Those of the daemon under fault, in their order; the last is about the load itself."""

    ENDS_ONCE = "every admitted task ends once, its log whole and the same for all readers"
    ORDER = "first in first out, interactive first, bounds kept, a refused task leaves no trace"
    OWNED = "slots, reservations, ports, files and processes are given back"
    COMES_BACK = "a replica that is wanted comes back, or /health says why not"
    RELOADS = "a reload ends in the new model or the old one"
    LOOP = "the event loop does not stall"
    SPEAKS = "every answer is as documented, no bug is met, and a stop is in order"
    SPARED = "a fault stays where it is"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done, or seen."""

    at_s: float
    """Since the start."""
    text: str

    def __str__(self) -> str:
        return f"{self.at_s:8.2f} s  {self.text}"


@dataclass(frozen=True, slots=True)
class Breach:
    """Of an invariant, with the last steps before it."""

    at_s: float
    invariant: Invariant
    text: str
    steps: tuple[Step, ...]


@dataclass(slots=True)
class Book:
    """Written by all who take part."""

    started_s: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    """By kind."""
    tasks: Counter[str] = field(default_factory=Counter)
    """Admitted ones, by how they ended: ``end``, or an error's code."""
    refused: Counter[str] = field(default_factory=Counter)
    """Tasks, by status and code."""
    reloads: Counter[str] = field(default_factory=Counter)
    """By how they ended."""
    checks: Counter[Invariant] = field(default_factory=Counter)
    """How often each was looked at."""
    breaches: list[Breach] = field(default_factory=list)
    is_broken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set with the first breach."""
    _steps: deque[Step] = field(default_factory=lambda: deque(maxlen=STEPS_KEPT))

    @property
    def so_far_s(self) -> float:
        return time.monotonic() - self.started_s

    def step(self, text: str) -> None:
        self._steps.append(Step(self.so_far_s, text))

    def fault(self, kind: str, about: str = "") -> None:
        """Count one, and remember it."""
        self.faults[kind] += 1
        self.step(f"{kind}: {about}" if about else kind)

    def breach(self, invariant: Invariant, text: str) -> None:
        self.breaches.append(Breach(self.so_far_s, invariant, text, tuple(self._steps)))
        self.is_broken.set()

    def check(self, invariant: Invariant, is_kept: bool, text: str) -> None:
        """Look at one; ``text`` says what is so where it is not kept."""
        self.checks[invariant] += 1
        if not is_kept:
            self.breach(invariant, text)

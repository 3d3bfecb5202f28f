"""What a pool's core leaves to be done outside, gathered until the shell takes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchd.serving.account import EndReport
from orchd.serving.dispatch import Grant
from orchd.serving.entry import Entry


@dataclass(slots=True)
class Todo:
    """To be done in this order."""

    ended: list[Entry] = field(default_factory=list)
    """Tasks that have had their terminal event."""
    run: list[Grant] = field(default_factory=list)
    """Send their tasks to their replicas."""
    cut: list[Grant] = field(default_factory=list)
    """Nobody wants their tasks any more: close their streams, then ``release`` them."""
    reports: list[EndReport] = field(default_factory=list)
    """What the log is to tell of those that have ended."""

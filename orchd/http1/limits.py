"""The bounds of one connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """How much, and for how long."""

    head_bytes: int = 32 * 1024
    """Request line and headers; a slice more may pass. Parsing that much takes up to 20 ms."""
    body_bytes: int = 8 * 1024 * 1024
    ahead_bytes: int = 64 * 1024
    """How much a client may send before its turn (pipelining) until we stop reading."""
    slice_bytes: int = 4 * 1024
    """How much is parsed in one loop turn: 146 of the shortest requests, some 16 ms."""
    pull_bytes: int = 64 * 1024
    """How much of a stream is framed at once."""
    ping_s: float = 10.0
    """After how long a silence a stream says what it waits for."""
    linger_s: float = 2.0
    """How long to read on after a final reply, so that a reset does not overtake it."""

"""The bounds of one connection, and of all of them together."""

from __future__ import annotations

from dataclasses import dataclass

from orchd.config.model import ServerConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """How much, and for how long; the first eight are the user's to set, in ``[server]``."""

    head_bytes: int = 32 * 1024
    """Request line and headers."""
    max_headers: int = 100
    """Fields in one head. The most of both take about 1 ms to parse."""
    body_bytes: int = 8 * 1024 * 1024
    head_timeout_s: float = 10.0
    """From a head's first byte (the first head: from the connection's opening) to its end."""
    body_timeout_s: float = 30.0
    """From the end of the head to the end of its body."""
    keep_alive_s: float = 75.0
    """How long a connection may be idle between two requests."""
    max_connections: int = 512
    reader_stall_s: float = 120.0
    """How long the kernel may take no byte of a reply."""

    max_refusals: int = 64
    """Connections beyond the most that are told so; those beyond these are dropped unheard."""
    ahead_bytes: int = 64 * 1024
    """How much a client may send before its turn (pipelining) until we stop reading."""
    slice_bytes: int = 16 * 1024
    """How much is parsed in one loop turn. All connections have theirs in the same turn, so what
    takes long for its length counts for more: a head for ``head_cost_bytes`` at least, a line
    between chunks for ``line_cost_bytes``. That is four requests, or half a millisecond."""
    head_cost_bytes: int = 4 * 1024
    line_cost_bytes: int = 128
    pull_bytes: int = 64 * 1024
    """How much of a stream is framed at once."""
    write_high_bytes: int = 64 * 1024
    """Unsent bytes above which nothing more is pulled or answered, until they are down to
    ``write_low_bytes``: with a pull on top, what a client that does not read costs us."""
    write_low_bytes: int = 16 * 1024
    ping_s: float = 10.0
    """After how long a silence a stream says what it waits for."""
    linger_s: float = 2.0
    """How long to read on after a final reply, so that a reset does not overtake it."""


def limits_from(server: ServerConfig) -> Limits:
    """The limits as ``[server]`` sets them."""
    return Limits(
        head_bytes=server.max_head_bytes,
        max_headers=server.max_headers,
        body_bytes=server.max_body_bytes,
        head_timeout_s=server.head_timeout_s,
        body_timeout_s=server.body_timeout_s,
        keep_alive_s=server.keep_alive_s,
        max_connections=server.max_connections,
        reader_stall_s=server.reader_stall_s,
    )

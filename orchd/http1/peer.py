"""Says who is at the other end of a connection, for the log."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

_CREDENTIALS = struct.Struct("3i")
"""unix(7), ``SO_PEERCRED``: pid, uid, gid."""


def describe_peer(transport: asyncio.BaseTransport) -> str:
    """The address without its port, or the account behind a unix socket; ``unknown`` where one that
    has hung up already had an address."""
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple) and peer:
        return str(peer[0])
    sock = transport.get_extra_info("socket")
    # Whoever has hung up already is nobody in particular.
    with contextlib.suppress(OSError, AttributeError, struct.error):
        if sock.family != socket.AF_UNIX:
            return "unknown"
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        return f"uid:{_CREDENTIALS.unpack(credentials)[1]}"
    return "unix"

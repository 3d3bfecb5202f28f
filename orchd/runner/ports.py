"""Loopback ports for engines: a range of its own, below the one for outgoing connections.

Invariant: a port is given to one replica until it is given back. Another program may still take it
before the engine binds; then the engine fails, and the next try gets another port.
"""

from __future__ import annotations

import random
import socket

from orchd.errors import HostError

HOST = "127.0.0.1"
PORTS = range(18_700, 19_700)


class PortPool:
    """The ports that this daemon's engines hold."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self) -> int:
        """A port that nobody listens on now. Raises HostError where there is none."""
        # In random order, so that two daemons on one machine rarely try the same.
        for port in random.sample(PORTS, len(PORTS)):
            if port not in self._taken and _is_free(port):
                self._taken.add(port)
                return port
        raise HostError(f"no free port from {PORTS.start} to {PORTS.stop - 1} on {HOST}")

    def give_back(self, port: int) -> None:
        self._taken.remove(port)

    @property
    def has_given(self) -> bool:
        """True while a port is not given back."""
        return bool(self._taken)


def _is_free(port: int) -> bool:
    try:
        probe = socket.socket()
    except OSError as error:
        raise HostError(f"cannot look for a free port: {error.strerror}") from error
    with probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True

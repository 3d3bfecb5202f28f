"""Loopback ports for engines: a range of its own, below the one for outgoing connections.

An engine binds its port a while after it was given; so that no other daemon gives the same port
meanwhile, each is locked by a name in the network namespace that the ports are of as well: an
abstract unix socket, which goes with its daemon however that ends. Invariant: a port is given to
one replica until it is given back. A stranger may still take it before the engine binds; then the
engine fails, and the next try gets another port.
"""

from __future__ import annotations

import random
import socket

from orchd.errors import HostError

HOST = "127.0.0.1"
PORTS = range(18_700, 19_700)


class PortPool:
    """The ports that this daemon's engines hold."""

    def __init__(self, ports: range = PORTS) -> None:
        self._ports = ports
        self._locks: dict[int, socket.socket] = {}

    def take(self) -> int:
        """A port that nobody has now. Raises HostError where there is none."""
        for port in random.sample(self._ports, len(self._ports)):
            if port in self._locks or (lock := _lock(port)) is None:
                continue
            if _is_free(port):
                self._locks[port] = lock
                return port
            lock.close()
        first, last = self._ports.start, self._ports.stop - 1
        raise HostError(f"no free port from {first} to {last} on {HOST}")

    def give_back(self, port: int) -> None:
        self._locks.pop(port).close()

    def close(self) -> None:
        """Leave them to other daemons; one on which an engine still listens is nobody's."""
        for lock in self._locks.values():
            lock.close()

    @property
    def has_given(self) -> bool:
        """True while a port is not given back."""
        return bool(self._locks)


def _lock(port: int) -> socket.socket | None:
    """What keeps other daemons from it; None where one of them has it."""
    lock = _open_socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0orchd port {port}")
    except OSError:
        lock.close()
        return None
    return lock


def _is_free(port: int) -> bool:
    """Whether nobody listens there."""
    with _open_socket(socket.AF_INET) as probe:
        # Connections that linger from before do not matter.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _open_socket(family: socket.AddressFamily) -> socket.socket:
    try:
        return socket.socket(family)
    except OSError as error:
        raise HostError(f"cannot look for a free port: {error.strerror}") from error

"""The socket to the service manager.

Invariants: nothing here waits, and nothing raises: what cannot be sent now is the caller's to say
again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Mapping

from orchd.systemd.message import encode, find_address, find_watchdog_s

log = logging.getLogger(__name__)


class Notifier:
    """Speaks to the service manager that ``environ`` names; to nobody where it names none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.watchdog_s = find_watchdog_s(environ, os.getpid())
        """Within which span it wants to hear of us; None where it does not."""
        self._address = find_address(environ)
        self._socket: socket.socket | None = None
        self._has_complained = False
        if self._address is None:
            if named := environ.get("NOTIFY_SOCKET"):
                log.warning("cannot speak to NOTIFY_SOCKET, it is no unix socket: %s", named)
            return
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        except OSError as error:
            self._complain(error)
            return
        self._socket.setblocking(False)

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody to speak to."""
        return self._socket is not None

    def send(self, fields: Mapping[str, str]) -> bool:
        """One message; False where it was not taken just now."""
        if self._socket is None or self._address is None:
            return False
        try:
            # Addressed each time: a socket that is made anew at its place is spoken to as well.
            self._socket.sendto(encode(fields), self._address)
        except OSError as error:
            self._complain(error)
            return False
        return True

    def close(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _complain(self, error: OSError) -> None:
        if not self._has_complained and not isinstance(error, BlockingIOError):
            self._has_complained = True
            log.warning("the service manager does not hear us: %s", error.strerror or error)

"""Listens, and owns every live connection until it is closed.

Invariant: after ``stop`` no connection of this server is left.
"""

from __future__ import annotations

import asyncio
import errno

from orchd.config.listen import Listen
from orchd.errors import HostError
from orchd.http1.connection import Connection
from orchd.http1.limits import Limits
from orchd.http1.messages import Application

_BACKLOG = 1024
"""Connections that come within one loop turn; the kernel lets those beyond wait for a second."""

_ABORT_S = 1.0
"""An abort takes a loop turn; a stop must not hang on a connection that does not even do that."""


class HttpServer:
    """One listening socket and the connections that came through it."""

    def __init__(self, application: Application, limits: Limits | None = None) -> None:
        self._application = application
        self._limits = limits or Limits()
        self._live: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._is_stopping = False
        self._all_closed: asyncio.Future[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._live)

    def opened(self, connection: Connection) -> None:
        self._live.add(connection)
        # The kernel had it already when the listening socket was closed.
        if self._is_stopping:
            connection.abort()

    def closed(self, connection: Connection) -> None:
        self._live.discard(connection)
        if not self._live and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)

    async def start(self, listen: Listen) -> Listen:
        """Bind and listen; returns the address with the port that the system chose for 0.

        Raises HostError in one clear line where the address cannot be had.
        """
        loop = asyncio.get_running_loop()

        def connect() -> Connection:
            return Connection(self._application, self, self._limits, loop)

        try:
            self._server = await loop.create_server(
                connect, listen.host, listen.port, backlog=_BACKLOG
            )
        except OSError as error:
            raise HostError(f"cannot listen on {listen}: {_explain(error)}") from error
        return Listen(listen.host, self._server.sockets[0].getsockname()[1])

    async def stop(self, grace_s: float) -> None:
        """Take no new connection, let replies under way finish for ``grace_s``, drop the rest."""
        self._is_stopping = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._live):
            connection.finish()
        await self._wait_closed(grace_s)
        for connection in tuple(self._live):
            connection.abort()
        await self._wait_closed(_ABORT_S)

    async def _wait_closed(self, timeout_s: float) -> None:
        if self._live:
            self._all_closed = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._all_closed], timeout=timeout_s)


def _explain(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another program already listens there"
        case errno.EACCES:
            return "permission denied (ports below 1024 need privileges)"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
        case _:
            return error.strerror or str(error)

"""Listens, and owns every live connection until it is closed.

Invariants: no more connections are open than the limit and the refusals allowed on top of it; after
``stop`` none is left, and no socket file.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from dataclasses import replace
from pathlib import Path
from typing import assert_never

from orchd.config.listen import AnyListen, Listen, UnixListen
from orchd.errors import AddressTakenError, HostError
from orchd.http1 import intake
from orchd.http1.connection import Connection
from orchd.http1.limits import Limits
from orchd.http1.messages import Application
from orchd.http1.unix_socket import UnixSocket, open_unix_socket

log = logging.getLogger(__name__)

_BACKLOG = 1024
"""Connections that come within one loop turn; the kernel lets those beyond wait for a second."""

_RETRY_AFTER = (b"retry-after", b"1")
"""When one who was turned away may come again; connections end at any time."""

_ABORT_S = 1.0
"""An abort takes a loop turn; a stop must not hang on a connection that does not even do that."""


class HttpServer:
    """One listening socket and the connections that came through it."""

    def __init__(self, application: Application, limits: Limits | None = None) -> None:
        self._application = application
        self._limits = limits or Limits()
        self._live: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._unix_socket: UnixSocket | None = None
        self._is_full = False
        refusal = application.refuse(intake.too_many(self._limits))
        self._refusal = replace(refusal, headers=(*refusal.headers, _RETRY_AFTER))
        self._is_stopping = False
        self._all_closed: asyncio.Future[None] | None = None

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._live)

    def opened(self, connection: Connection) -> None:
        self._live.add(connection)
        excess = len(self._live) - self._limits.max_connections
        # The kernel had it already when the listening socket was closed.
        if self._is_stopping or excess > self._limits.max_refusals:
            connection.abort()
        elif excess > 0:
            self._note_full()
            connection.turn_away(self._refusal)

    def closed(self, connection: Connection) -> None:
        self._live.discard(connection)
        # Told once for each crowd, and a crowd has gone when half of it has.
        if len(self._live) <= self._limits.max_connections // 2:
            self._is_full = False
        if not self._live and self._all_closed is not None and not self._all_closed.done():
            self._all_closed.set_result(None)

    async def start(self, listen: AnyListen) -> AnyListen:
        """Bind and listen; returns the address with the port that the system chose for 0.

        Raises HostError in one clear line where the address cannot be had.
        """
        try:
            match listen:
                case Listen():
                    return await self._start_tcp(listen)
                case UnixListen():
                    await self._start_unix(listen)
                    return listen
                case _:
                    assert_never(listen)
        except OSError as error:
            kind = AddressTakenError if error.errno == errno.EADDRINUSE else HostError
            raise kind(f"cannot listen on {listen}: {_explain(error, listen)}") from error
        except HostError as error:
            raise type(error)(f"cannot listen on {listen}: {error}") from error

    async def _start_tcp(self, listen: Listen) -> Listen:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._connect, listen.host, listen.port, backlog=_BACKLOG
        )
        return Listen(listen.host, self._server.sockets[0].getsockname()[1])

    async def _start_unix(self, listen: UnixListen) -> None:
        loop = asyncio.get_running_loop()
        self._unix_socket = unix_socket = open_unix_socket(Path(listen.path), _BACKLOG)
        self._server = await loop.create_unix_server(
            self._connect, sock=unix_socket.socket, backlog=_BACKLOG
        )

    def _connect(self) -> Connection:
        return Connection(self._application, self, self._limits, asyncio.get_running_loop())

    def _note_full(self) -> None:
        if not self._is_full:
            self._is_full = True
            log.warning(
                "refused a connection: %d are open, as [server] max_connections allows",
                self._limits.max_connections,
            )

    async def stop(self, grace_s: float) -> None:
        """Take no new connection, let replies under way finish for ``grace_s``, drop the rest."""
        self._is_stopping = True
        if self._unix_socket is not None:
            self._unix_socket.unlink()
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


def _explain(error: OSError, listen: AnyListen) -> str:
    match error.errno, listen:
        case errno.EADDRINUSE, _:
            return "another program already listens there"
        case errno.EACCES, Listen():
            return "permission denied; ports below 1024 need privileges, so write a higher one"
        case errno.EADDRNOTAVAIL, _:
            return "this machine has no such address; ip address lists those it has"
        case errno.ENOENT | errno.ENOTDIR, UnixListen(path):
            return f"there is no folder {Path(path).parent}; make it, or listen elsewhere"
        case _:
            return (error.strerror or str(error)).lower()

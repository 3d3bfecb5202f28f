"""Speaks to a daemon over HTTP, for the commands that ask it something.

Each request has a connection of its own. The token goes only to where the configuration says that
the daemon listens, and never to whoever is merely to be recognised there.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Any, assert_never

from orchd.config.listen import AnyListen, Listen, UnixListen
from orchd.config.token import Token
from orchd.errors import Code, HostError, OrchdError
from orchd.logs.line import escape

ANSWER_TIMEOUT_S = 30.0
"""The daemon answers at once, and a stream that waits says so every 10 s."""
_RECOGNISE_TIMEOUT_S = 1.0
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_ENVELOPE = {"code", "message", "engine"}
_MESSAGE_CHARS = 4000


class RefusedError(OrchdError):
    """The daemon said no, or the task ended in an error; the message is the daemon's."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where the daemon listens, and the token."""

    listen: AnyListen
    token: Token

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> Iterator[http.client.HTTPResponse]:
        """One request; its answer can be read within the ``with``.

        Raises HostError where nobody answers it, RefusedError where the token is not taken.
        """
        if isinstance(self.listen, Listen) and self.listen.port == 0:
            problem = "listen has port 0, so only the daemon's log says where it listens; write a"
            raise HostError(f"{problem} port in [server]")
        headers = {"Authorization": f"Bearer {self.token.value}", "Connection": "close"}
        content = None if body is None else json.dumps(body).encode()
        with contextlib.closing(_connection_to(self.listen, timeout_s)) as connection:
            try:
                connection.request(method, path, content, headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise HostError(_explain(error, self.listen)) from error
            with response:
                if response.status == HTTPStatus.UNAUTHORIZED:
                    what = f"does not take the token of {self.token.origin}"
                    mend = "its log says at its start which one it takes"
                    raise RefusedError(f"the daemon on {self.listen} {what}; {mend}")
                yield response

    def read_json(self, response: http.client.HTTPResponse, *expected: int) -> dict[str, Any]:
        """The object that it answered with.

        Raises RefusedError with the daemon's words where its status is none of those, HostError
        where it is not a daemon that answers.
        """
        try:
            body = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise self.strange(f"HTTP {response.status}") from error
        if not _is_envelope(body):
            if isinstance(body, dict) and response.status in expected:
                return body
            raise self.strange(f"HTTP {response.status}")
        again_s = response.headers.get("Retry-After", "")
        is_full = response.status == HTTPStatus.TOO_MANY_REQUESTS
        when = f"; try again in {again_s} s" if is_full and again_s.isdigit() else ""
        raise RefusedError(describe_envelope(body) + when)

    def strange(self, what: str) -> HostError:
        """For an answer that no daemon of ours would give."""
        problem = f"what answers on {self.listen} is no orchd ({what})"
        return HostError(f"{problem}; look which program has that port, or name the daemon's own")


def describe_envelope(envelope: Mapping[str, Any]) -> str:
    """An error of the daemon in one line; an engine's last words in it may hold anything."""
    message = str(envelope.get("message"))[:_MESSAGE_CHARS]
    return escape(f"{envelope.get('code')}: {message}")


class Answerer(Enum):
    """Who listens at an address."""

    NOBODY = auto()
    ORCHD = auto()
    STRANGER = auto()
    """Or an orchd that is too busy to answer at once."""
    ELSEWHERE = auto()
    """Whoever it is: it is an address of another machine, and was not asked."""


def recognise(listen: AnyListen) -> Answerer:
    """Who listens there, by what is answered to one who shows no token."""
    if isinstance(listen, Listen):
        if listen.port == 0:
            return Answerer.NOBODY
        if not _is_here(listen.host):
            return Answerer.ELSEWHERE
    with contextlib.closing(_connection_to(listen, _RECOGNISE_TIMEOUT_S)) as connection:
        try:
            connection.connect()
        except OSError:
            return Answerer.NOBODY
        try:
            connection.request("GET", "/health", headers={"Connection": "close"})
            with connection.getresponse() as response:
                body = json.loads(response.read(_MESSAGE_CHARS))
        except (OSError, http.client.HTTPException, ValueError, RecursionError):
            return Answerer.STRANGER
    is_ours = _is_envelope(body) and body["code"] in set(Code)
    return Answerer.ORCHD if is_ours else Answerer.STRANGER


def _is_here(host: str) -> bool:
    """Whether this machine could listen there, were the port free."""
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind, protocol) as probe:
                probe.bind(address)
    except OSError:
        return False
    return True


def _is_envelope(body: object) -> bool:
    return isinstance(body, dict) and set(body) == _ENVELOPE


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection_to(listen: AnyListen, timeout_s: float) -> http.client.HTTPConnection:
    match listen:
        case Listen(host, port):
            host = _ANY_ADDRESS.get(host, host)
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        case UnixListen(path):
            return _UnixConnection(path, timeout_s)
        case _:
            assert_never(listen)


def _explain(error: Exception, listen: AnyListen) -> str:
    match error:
        case ConnectionRefusedError() | FileNotFoundError():
            mend = "orchd serve starts one, --config FILE names another one's configuration"
            return f"no daemon answers on {listen} ({error.strerror}); {mend}"
        case PermissionError():
            return (
                f"{listen} may not be opened by this account ({error.strerror}); ask as its owner"
            )
        case TimeoutError():
            return f"the daemon on {listen} does not answer; its log may say why"
        case OSError():
            return f"no daemon answers on {listen} ({error.strerror or error})"
        case _:
            return f"what answers on {listen} is no orchd ({escape(str(error)) or 'not HTTP'})"

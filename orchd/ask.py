"""A client of the daemon: submits one task and writes its text as it comes."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO, assert_never

from orchd.config.listen import AnyListen, Listen, UnixListen
from orchd.config.token import Token
from orchd.errors import ClientError, Code, HostError, OrchdError

_ANSWER_TIMEOUT_S = 30.0
"""The daemon answers at once, and a stream that waits says so every 10 s."""
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class RefusedError(OrchdError):
    """The daemon said no, or the task ended in an error; the message is the daemon's."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """Where the daemon listens, and the token."""

    listen: AnyListen
    token: Token

    def request(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> http.client.HTTPResponse:
        """One request on a connection of its own. Raises HostError where nobody answers."""
        connection = _connection_to(self.listen)
        headers = {"Authorization": f"Bearer {self.token.value}", "Connection": "close"}
        content = None if body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, content, headers)
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            why = (isinstance(error, OSError) and error.strerror) or error
            problem = f"no daemon answers on {self.listen} ({why}); orchd serve starts one"
            raise HostError(problem) from error


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connection_to(listen: AnyListen) -> http.client.HTTPConnection:
    match listen:
        case Listen(host, port):
            host = _ANY_ADDRESS.get(host, host)
            return http.client.HTTPConnection(host, port, timeout=_ANSWER_TIMEOUT_S)
        case UnixListen(path):
            return _UnixConnection(path)
        case _:
            assert_never(listen)


def ask(daemon: Daemon, task: Mapping[str, object], out: TextIO) -> None:
    """Submit, stream to ``out``, and return at the task's end.

    Ctrl-C cancels the task, and so does a reader of ``out`` that is gone.

    Raises RefusedError with the daemon's words, HostError where it does not answer.
    """
    with daemon.request("POST", "/v1/tasks", task) as response:
        if response.status == http.client.UNAUTHORIZED:
            problem = f"the daemon on {daemon.listen} does not take the token of"
            raise RefusedError(f"{problem} {daemon.token.origin}")
        admitted = _read_json(response, http.client.ACCEPTED)
    path = f"/v1/tasks/{admitted['task_id']}"
    try:
        _stream(daemon, path, out)
    except (KeyboardInterrupt, BrokenPipeError):
        daemon.request("POST", f"{path}/cancel").close()
        raise


def _stream(daemon: Daemon, path: str, out: TextIO) -> None:
    with daemon.request("GET", f"{path}/stream") as response:
        if response.status != http.client.OK:
            _read_json(response, http.client.OK)
        for event, data in _read_events(response):
            match event:
                case "token":
                    out.write(data["t"])
                    out.flush()
                case "error":
                    raise RefusedError(f"{data['code']}: {data['message']}")
                case "end":
                    return
    raise HostError("the daemon ended the stream before the task's end")


def _read_events(response: http.client.HTTPResponse) -> Iterator[tuple[str, dict[str, Any]]]:
    """The named events of our own daemon's streams: one line of data each."""
    event = ""
    try:
        for line in response:
            field_name, _, value = line.decode("utf-8").rstrip("\n").partition(": ")
            if field_name == "event":
                event = value
            elif field_name == "data":
                yield event, json.loads(value)
    except (OSError, http.client.HTTPException) as error:
        raise HostError(f"lost the daemon: {error}") from error


def _read_json(response: http.client.HTTPResponse, expected: int) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise HostError(f"what answers is no orchd (HTTP {response.status})") from error
    if response.status != expected:
        raise RefusedError(f"{body.get('code')}: {body.get('message')}")
    return body


def read_prompt(prompt: str | None) -> str:
    """The prompt as given; with ``-`` or none, all of stdin. Raises ClientError if not UTF-8."""
    if prompt is not None and prompt != "-":
        return prompt
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"the prompt on stdin is not UTF-8 ({error.reason} at byte {error.start})"
        raise ClientError(Code.INVALID_PARAMS, problem) from error

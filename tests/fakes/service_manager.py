"""The service manager's end of the socket: what a daemon told it, message by message."""

from __future__ import annotations

import select
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

TIMEOUT_S = 30.0


class FakeServiceManager:
    """A real socket at ``address``, a path or an abstract one (``@name``)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = address.encode()
        self._socket.bind(b"\0" + path[1:] if address[0] == "@" else path)
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()
        if self.address[0] != "@":
            Path(self.address).unlink(missing_ok=True)

    def hear(self, timeout_s: float = TIMEOUT_S) -> dict[str, str] | None:
        """The next message's fields; None where none comes in time."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return None
        lines = self._socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def hear_all(self) -> list[dict[str, str]]:
        """What has come already."""
        messages = []
        while (message := self.hear(0)) is not None:
            messages.append(message)
        return messages

    def hear_until(self, field: str, text: str = "") -> list[dict[str, str]]:
        """Messages up to the first whose field holds the text, that one included."""
        messages: list[dict[str, str]] = []
        while not messages or field not in messages[-1] or text not in messages[-1][field]:
            message = self.hear()
            assert message is not None, f"no {field} with {text!r} came: {messages}"
            messages.append(message)
        return messages

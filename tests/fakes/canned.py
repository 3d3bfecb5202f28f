"""A server that answers each connection with the next of some bytes, whatever it is asked."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from orchd.client import Daemon
from orchd.config.listen import Listen
from orchd.config.token import Token

HANG = b"hang"
"""Instead of an answer: none, until the test is over."""
TOKEN = Token("a-token-of-a-test", "ORCHD_API_TOKEN")


@dataclass
class Canned:
    """Where it listens, and what it was sent so far: the head and the body that came with it."""

    port: int
    requests: list[str] = field(default_factory=list)

    @property
    def listen(self) -> Listen:
        return Listen("127.0.0.1", self.port)

    @property
    def daemon(self) -> Daemon:
        return Daemon(self.listen, TOKEN)


def reply(status: int, body: str, *headers: str) -> bytes:
    """An answer that is whole."""
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body.encode())}", *headers]
    return ("\r\n".join([*head, "Connection: close", "", ""]) + body).encode()


def stream(*events: str, is_whole: bool = True) -> bytes:
    """A chunked answer of these events; one that is not whole lacks its end."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = [f"{event}\n\n".encode() for event in events]
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + body + (b"0\r\n\r\n" if is_whole else b"")


@contextlib.contextmanager
def answering(replies: Sequence[bytes]) -> Iterator[Canned]:
    """Run it; connections beyond the replies are closed at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as held:
        canned = Canned(listener.getsockname()[1])

        def serve() -> None:
            for answer in [*replies, *[b""] * 20]:
                try:
                    connection = listener.accept()[0]
                except OSError:
                    return  # shut down: the test is over
                held.enter_context(connection)
                canned.requests.append(_read_request(connection))
                if answer != HANG:
                    with contextlib.suppress(OSError):
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield canned
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _read_request(connection: socket.socket) -> str:
    connection.settimeout(10)
    said = b""
    with contextlib.suppress(OSError):
        while b"\r\n\r\n" not in said and (more := connection.recv(65536)):
            said += more
        head, _, body = said.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b": ")
            if name.lower() == b"content-length":
                while len(body) < int(value) and (more := connection.recv(65536)):
                    body += more
                    said += more
    return said.decode()

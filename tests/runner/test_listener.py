"""Whose socket listens on a port, with real sockets and processes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

from orchd.runner.listener import is_own, is_strange
from orchd.runner.process_tree import list_tree, read_resident_bytes

LISTEN = (
    "import socket, sys\n"
    "s = socket.create_server(('127.0.0.1', 0))\n"
    "print(s.getsockname()[1], flush=True)\n"
    "sys.stdin.read()\n"
)
LISTEN_IN_A_CHILD = f"import os\nif os.fork() == 0:\n exec({LISTEN!r})\nelse:\n os.wait()\n"


@contextlib.contextmanager
def running(program: str) -> Iterator[tuple[int, int]]:
    """The pid of a program in a session of its own, and the number that it says."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.pid, int(process.stdout.readline())
        finally:
            assert process.stdin is not None
            process.stdin.close()


def test_its_own_socket_is_not_strange() -> None:
    with running(LISTEN) as (pid, port):
        assert is_own(port, pid) and not is_strange(port, pid)


def test_a_childs_socket_is_its_own() -> None:
    with running(LISTEN_IN_A_CHILD) as (pid, port):
        assert is_own(port, pid) and not is_strange(port, pid)
        assert len(list_tree(pid)) == 2


def test_a_grandchilds_socket_in_a_session_of_its_own_is_its_own() -> None:
    listen = LISTEN_IN_A_CHILD.replace("exec(", "os.setsid(); exec(")
    program = f"import os\nif os.fork() == 0:\n exec({listen!r})\nelse:\n os.wait()\n"
    with running(program) as (pid, port):
        assert not is_strange(port, pid)
        assert len(list_tree(pid)) == 3


def test_anothers_socket_is_strange() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, running(LISTEN) as (pid, _):
        port = server.getsockname()[1]
        assert is_strange(port, pid) and not is_own(port, pid)


def test_anothers_socket_on_every_address_is_strange_too() -> None:
    with running(LISTEN) as (pid, _):
        for server in (
            socket.create_server(("", 0)),
            socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True),
        ):
            with server:
                assert is_strange(server.getsockname()[1], pid)


def test_where_nobody_is_known_to_listen_the_key_decides() -> None:
    with running(LISTEN) as (pid, _), socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert not is_strange(bound.getsockname()[1], pid)


def test_a_connection_on_the_port_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
    with client, accepted, running(LISTEN) as (pid, _):
        assert not is_strange(port, pid)


def test_what_a_tree_holds_is_the_sum_of_it() -> None:
    hold = "import os\nheld = bytearray(30_000_000)\n"
    program = f"{hold}if os.fork() == 0:\n held += b'x' * 60_000_000\n exec({LISTEN!r})\nos.wait()"
    with running(program) as (pid, _):
        parent, child = list_tree(pid)
        assert read_resident_bytes(child) > 90_000_000
        assert read_resident_bytes(parent) > read_resident_bytes(child) + 30_000_000


def test_one_that_is_gone_holds_nothing() -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert read_resident_bytes(gone.pid) == 0
    assert list_tree(os.getpid())[0] == os.getpid()

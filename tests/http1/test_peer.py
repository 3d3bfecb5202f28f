"""Who asks, as the application hears it from real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from orchd.config.listen import AnyListen, Listen, UnixListen
from orchd.http1.peer import describe_peer
from orchd.http1.server import HttpServer
from tests.conftest import Drive
from tests.fakes.application import FakeApplication
from tests.http1.raw import GET, Client


async def peers(listen: AnyListen) -> list[str]:
    """Whom two requests on one connection come from."""
    application = FakeApplication()
    server = HttpServer(application)
    try:
        match await server.start(listen):
            case Listen(host, port):
                client = Client(*await asyncio.open_connection(host, port))
            case UnixListen(path):
                client = Client(*await asyncio.open_unix_connection(path))
        for _ in range(2):
            await client.ask(GET)
        client.close()
    finally:
        await server.stop(0)
    return [head.peer for head in application.heads]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_without_its_port(drive: Drive[Any], host: str) -> None:
    async def scenario() -> None:
        assert await peers(Listen(host, 0)) == [host, host]

    try:
        drive(scenario())
    except Exception as error:
        if host == "::1" and "no such address" in str(error):
            pytest.skip(f"this machine has no {host}: {error}")
        raise


def test_the_account_behind_a_unix_socket(drive: Drive[Any], tmp_path: Path) -> None:
    async def scenario() -> None:
        uid = f"uid:{os.getuid()}"
        assert await peers(UnixListen(str(tmp_path / "orchd.sock"))) == [uid, uid]

    drive(scenario())


def test_an_address_that_has_hung_up_already_is_no_account(drive: Drive[Any]) -> None:
    """The system tells no address of it any more, and for the account a number that is none."""
    heard: list[str] = []

    class Listening(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            heard.append(describe_peer(transport))

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Listening, "127.0.0.1", 0)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.connect(server.sockets[0].getsockname())
        while not heard:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
        server.close()
        await server.wait_closed()
        assert heard == ["unknown"]

    drive(scenario())


def test_one_that_has_no_socket_any_more() -> None:
    assert describe_peer(asyncio.Transport()) == "unix"

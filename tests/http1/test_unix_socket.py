"""Unix sockets as real files: claimed, kept from others, given back."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchd.config.listen import UnixListen
from orchd.errors import HostError
from orchd.http1.server import HttpServer
from orchd.http1.unix_socket import open_unix_socket
from tests.conftest import Drive
from tests.fakes.application import FakeApplication, FakeSource
from tests.http1.raw import GET, Client

BACKLOG = 16


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "orchd.sock"


def remove(path: Path) -> None:
    path.unlink()


def is_there(path: Path) -> bool:
    return os.path.lexists(path)


def place(path: Path, kind: str) -> None:
    match kind:
        case "file":
            path.write_text("mine")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(path.with_name("nowhere"))


def count_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def ask(path: Path, data: bytes = GET) -> bytes:
    client = Client(*await asyncio.open_unix_connection(str(path)))
    answer = await client.ask(data)
    client.close()
    return answer.body


@asynccontextmanager
async def serving_at(path: Path, *sources: FakeSource) -> AsyncIterator[HttpServer]:
    server = HttpServer(FakeApplication(*sources))
    try:
        assert await server.start(UnixListen(str(path))) == UnixListen(str(path))
        yield server
    finally:
        await server.stop(0)


async def refusal(path: Path) -> str:
    with pytest.raises(HostError) as caught:
        async with serving_at(path):
            pass
    line = str(caught.value)
    assert line.startswith(f"cannot listen on unix:{path}: ") and "\n" not in line
    return line.removeprefix(f"cannot listen on unix:{path}: ")


def test_requests_and_streams_over_a_unix_socket(drive: Drive[Any], path: Path) -> None:
    async def scenario() -> None:
        async with serving_at(path, FakeSource(b"data", is_ended=True)):
            assert await ask(path) == b"hello"
            assert await ask(path, b"GET /stream/0 HTTP/1.1\r\nHost: a\r\n\r\n") == b"data"
        assert not is_there(path)

    drive(scenario())


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_nobody_else_may_open_it_from_the_first_instant_on(path: Path, umask: int) -> None:
    before = os.umask(umask)
    modes: set[int] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            try:
                modes.add(stat.S_IMODE(path.stat().st_mode))
            except FileNotFoundError:
                continue

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(50):
            opened = open_unix_socket(path, BACKLOG)
            modes.add(stat.S_IMODE(path.stat().st_mode))
            opened.unlink()
            opened.socket.close()
    finally:
        is_over.set()
        looking.join()
        os.umask(before)
    assert modes == {0o600}


def test_a_stale_socket_is_replaced(drive: Drive[Any], path: Path) -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with serving_at(path):
            assert await ask(path) == b"hello"

    drive(scenario())


def test_a_live_one_is_not(drive: Drive[Any], path: Path) -> None:
    async def scenario() -> None:
        async with serving_at(path):
            assert await refusal(path) == "another program already listens there"
            assert await ask(path) == b"hello"

    drive(scenario())


def test_nor_is_one_that_has_no_time_or_speaks_otherwise(drive: Drive[Any], path: Path) -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
            busy.bind(str(path))
            busy.listen(0)
            waiting.connect(str(path))
            assert await refusal(path) == "another program already listens there"
        remove(path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
            other.bind(str(path))
            assert await refusal(path) == "another program already listens there"
            assert is_there(path)

    drive(scenario())


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(drive: Drive[Any], path: Path, kind: str) -> None:
    async def scenario() -> None:
        place(path, kind)
        assert "is no socket; move it" in await refusal(path)
        assert is_there(path)

    drive(scenario())
    assert kind != "file" or path.read_text() == "mine"


def test_a_folder_that_is_not_there(drive: Drive[Any], path: Path) -> None:
    missing = path.parent / "missing" / "orchd.sock"
    assert drive(refusal(missing)) == (
        f"there is no folder {missing.parent}; make it, or listen elsewhere"
    )


def test_two_that_come_at_once_do_not_take_it_from_each_other(
    drive: Drive[Any], path: Path
) -> None:
    async def scenario() -> None:
        folder = os.open(path.parent, os.O_RDONLY)
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert "locked; try again" in await refusal(path)
        os.close(folder)
        async with serving_at(path):
            assert await ask(path) == b"hello"

    drive(scenario())


def test_at_the_stop_only_our_own_is_removed(drive: Drive[Any], path: Path) -> None:
    async def scenario() -> None:
        async with serving_at(path) as ours:
            remove(path)
            async with serving_at(path):
                await ours.stop(0)
                assert await ask(path) == b"hello"
            assert not is_there(path)

    drive(scenario())


def test_one_that_was_removed_meanwhile_is_no_trouble(drive: Drive[Any], path: Path) -> None:
    async def scenario() -> None:
        async with serving_at(path):
            remove(path)

    drive(scenario())


def test_nothing_is_left_open_by_a_refusal(path: Path) -> None:
    path.write_text("mine")
    before = count_descriptors()
    with pytest.raises(HostError):
        open_unix_socket(path, BACKLOG)
    assert count_descriptors() == before

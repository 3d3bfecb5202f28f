"""The thread behind the log, on real pipes: what it writes, and what it says of its losses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchd.logs.writer import LineWriter

GRACE_S = 30.0


class Pipe:
    """A small pipe that may be full, or without a reader."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def fill(self) -> int:
        """Until it takes no more; how many bytes that were."""
        os.set_blocking(self.writer, False)
        filled = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                filled += os.write(self.writer, bytes(1))
        os.set_blocking(self.writer, True)
        return filled

    @property
    def waiting_bytes(self) -> int:
        """How much of it has not been read."""
        return int(struct.unpack("i", fcntl.ioctl(self.reader, termios.FIONREAD, bytes(4)))[0])

    def read(self, size: int) -> bytes:
        """As many bytes."""
        data = b""
        while len(data) < size:
            data += os.read(self.reader, size - len(data))
        return data

    def read_lines(self, count: int) -> list[bytes]:
        data = b""
        while data.count(b"\n") < count:
            data += os.read(self.reader, 65536)
        return data.splitlines()

    def close(self) -> None:
        for descriptor in (self.reader, self.writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


def start(descriptor: int, bound_bytes: int = 1000) -> LineWriter:
    return LineWriter(descriptor, lambda what: f"({what})\n".encode(), bound_bytes)


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what the thread does; nothing tells of it."""
    deadline_s = time.monotonic() + GRACE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def is_over(writer: LineWriter) -> bool:
    writer.close(GRACE_S)
    return not writer._thread.is_alive()


def test_lines_come_in_order_and_the_end_waits_for_the_last(pipe: Pipe) -> None:
    writer = start(pipe.writer)
    for n in range(50):
        writer.put(b"%d\n" % n)
    assert is_over(writer)
    assert pipe.read_lines(50) == [b"%d" % n for n in range(50)]


def test_a_pipe_that_nobody_drains_holds_up_nobody(pipe: Pipe) -> None:
    filled = pipe.fill()
    writer = start(pipe.writer, bound_bytes=100)
    writer.put(b"first\n")
    until(lambda: writer._waiting_bytes == 0)  # the thread hangs in its write
    for n in range(1000):  # would never come to its end
        writer.put(b"%3d 56789\n" % n)
    assert writer._waiting_bytes == 100
    writer.close(0.01)
    assert writer._thread.is_alive()
    pipe.read(filled)
    assert is_over(writer)
    first, *kept, told = pipe.read_lines(12)
    assert first == b"first"
    assert kept == [b"%3d 56789" % n for n in range(10)]
    assert told == b"(left out 990 of the log's lines: they were not taken in time)"


def test_where_lines_are_missing_is_where_it_is_told(pipe: Pipe) -> None:
    filled = pipe.fill()
    writer = start(pipe.writer, bound_bytes=20)
    writer.put(b"a\n")
    until(lambda: writer._waiting_bytes == 0)  # the thread hangs in its write
    for _ in range(4):
        writer.put(b"12345678\n")
    writer.put(b"b\n")  # for this one there is room
    pipe.read(filled)
    assert is_over(writer)
    told = b"(left out 2 of the log's lines: they were not taken in time)"
    assert pipe.read_lines(5) == [b"a", b"12345678", b"12345678", told, b"b"]


def test_a_reader_that_is_gone_ends_nothing(pipe: Pipe) -> None:
    os.close(pipe.reader)
    writer = start(pipe.writer)
    for _ in range(5):
        writer.put(b"a\n")
    assert is_over(writer)


def test_a_full_disk_ends_nothing() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        writer = start(descriptor)
        for _ in range(5):
            writer.put(b"a\n")
        assert is_over(writer)
        assert writer._unwritten == 5
    finally:
        os.close(descriptor)


def test_a_disk_with_room_again_is_told_what_it_missed(tmp_path: Path) -> None:
    """The descriptor is moved from one file to another under the writer."""
    target = os.open("/dev/full", os.O_WRONLY)
    room = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    try:
        writer = start(target)
        for _ in range(3):
            writer.put(b"a\n")
        until(lambda: writer._unwritten == 3)
        os.dup2(room, target)
        writer.put(b"b\n")
        assert is_over(writer)
    finally:
        os.close(target)
        os.close(room)
    told = b"(could not write 3 of the log's lines)\nb\n"
    assert (tmp_path / "log").read_bytes() == told


def test_a_line_that_was_torn_off_is_ended_first(tmp_path: Path, pipe: Pipe) -> None:
    filled = pipe.fill()
    pipe.read(4096)
    writer = start(pipe.writer, bound_bytes=10**6)
    writer.put(b"x" * 10_000 + b"\n")
    until(lambda: pipe.waiting_bytes == filled)
    os.close(pipe.reader)
    until(lambda: writer._unwritten == 1)
    assert writer._is_torn
    room = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    os.dup2(room, pipe.writer)
    os.close(room)
    writer.put(b"b\n")
    assert is_over(writer)
    told = b"\n(could not write 1 of the log's lines)\nb\n"
    assert (tmp_path / "log").read_bytes() == told


def test_a_file_that_somebody_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    filled = pipe.fill()
    os.set_blocking(pipe.writer, False)
    writer = start(pipe.writer, bound_bytes=10**6)
    long = b"x" * 200_000 + b"\n"
    writer.put(long)
    pipe.read(filled)
    assert pipe.read(len(long)) == long
    assert is_over(writer)

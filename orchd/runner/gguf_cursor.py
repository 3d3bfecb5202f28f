"""Walks through the head of a GGUF file that is not trusted, a window of it in memory at a time.

Invariants: no byte beyond ``HEAD_BYTES_MAX`` is ever asked for; what is passed over is not read; a
count is held against the bytes that are left before anything is done so often.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

HEAD_BYTES_MAX = 64 * 1024 * 1024
"""Heads of today's models have up to 20 MiB, nearly all of it the tokenizer."""
WINDOW_BYTES = 256 * 1024
TEXT_BYTES_MAX = 65_535
"""The format's own bound for a key."""

Read = Callable[[int, int], bytes]
"""(offset, size) → that many bytes of the file, fewer only at its end."""

U32, U64 = Struct("<I"), Struct("<Q")


class ModelFileError(Exception):
    """The file is no model that could be loaded; ``str()`` goes on after the file's name."""


class Cursor:
    """A place in the file, and the window of bytes around it."""

    def __init__(self, read: Read, file_bytes: int) -> None:
        self.file_bytes = file_bytes
        self.at = 0
        self.length = U64
        """How the file's version writes counts."""
        self._read = read
        self._limit = min(file_bytes, HEAD_BYTES_MAX)
        self._window = b""
        self._start = 0

    def take(self, size: int) -> bytes:
        """The next bytes; never more than a text or a kept array has."""
        self._reach(size)
        begin = self.at - self._start
        self.at += size
        return self._window[begin : begin + size]

    def number(self, form: Struct) -> int:
        self._reach(form.size)
        (value,) = form.unpack_from(self._window, self.at - self._start)
        self.at += form.size
        return int(value)

    def text(self, what: str) -> bytes:
        """A key or a name."""
        size = self.number(self.length)
        if size > TEXT_BYTES_MAX:
            raise ModelFileError(f"is damaged: {what} of {size} bytes")
        text = self.take(size)
        if b"\0" in text or not text:
            raise ModelFileError(f"is damaged: {what} that is empty or holds a NUL")
        return text

    def skip(self, size: int) -> None:
        self._check(size)
        self.at += size

    def skip_strings(self, count: int) -> None:
        """Pass over strings: the one loop that a whole tokenizer goes through."""
        unpack, width = self.length.unpack_from, self.length.size
        start, at = self._start, self.at
        last = start + len(self._window) - width
        for _ in range(count):
            if at > last:
                self.at = at
                self._reach(width)
                start = self._start
                last = start + len(self._window) - width
            at += width + unpack(self._window, at - start)[0]
        self._check(at - self.at)
        self.at = at

    def expect(self, count: int, each_bytes: int, what: str, most: int) -> None:
        """Hold a count against its bound and against the bytes that are left."""
        if count > most:
            raise ModelFileError(f"is damaged: it claims {count} {what}")
        self._check(count * each_bytes)

    def _check(self, size: int) -> None:
        if self.at + size > self.file_bytes:
            raise ModelFileError(
                f"is cut short: its head goes on beyond its end at {self.file_bytes} bytes; fetch"
                " it anew"
            )
        if self.at + size > self._limit:
            raise ModelFileError(f"is damaged: its head has more than {HEAD_BYTES_MAX} bytes")

    def _reach(self, size: int) -> None:
        """Make the window hold the next ``size`` bytes."""
        self._check(size)
        if self._start <= self.at and self.at + size <= self._start + len(self._window):
            return
        self._window = self._read(self.at, min(max(size, WINDOW_BYTES), self._limit - self.at))
        self._start = self.at
        if len(self._window) < size:
            raise ModelFileError("became shorter while it was read")

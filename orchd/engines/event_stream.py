"""Reads server-sent events as engines write them (WHATWG HTML, section 9.2).

Only ``data`` matters to us: comments (pings) and other fields are passed over. A chunk may end
anywhere, also inside a character, so lines are cut as bytes and only whole ones are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchd.errors import EngineError

_BOM = b"\xef\xbb\xbf"
MAX_EVENT_BYTES = 4 * 1024 * 1024
"""More than this without a line's or an event's end is not an engine we know."""


class EventStreamReader:
    """Collects chunks, yields the data of each whole event."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._is_first = True

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Data of each event that this chunk completes. Raises EngineError beyond the bound."""
        for ended in self._cut(chunk):
            line = ended.removesuffix(b"\r")
            if self._is_first:
                line, self._is_first = line.removeprefix(_BOM), False
            if line:
                field, _, value = line.partition(b":")
                if field == b"data":
                    self._data.append(value.removeprefix(b" "))
                    self._data_bytes += len(line)
            elif self._data:
                data, self._data, self._data_bytes = self._data, [], 0
                yield b"\n".join(data)
        if self._data_bytes + self._rest_bytes > MAX_EVENT_BYTES:
            raise EngineError(f"sent an event of more than {MAX_EVENT_BYTES} bytes")

    def end(self) -> bytes:
        """Data of an event that lacks its blank line where the stream ends; empty where none does.

        A browser drops it, OpenAI's own client takes it.
        """
        return b"".join(self.feed(b"\n\n"))

    def _cut(self, chunk: bytes) -> list[bytes]:
        """Lines that this chunk ends. What it begins is copied once, when it ends."""
        lines = chunk.split(b"\n")
        rest = lines.pop()
        if lines and self._rest:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest, self._rest_bytes = [], 0
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)
        return lines

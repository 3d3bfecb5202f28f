"""Takes a chunked body apart (RFC 9112, section 7.1), by the letter.

h11's own reader takes white space and a bare CR in a chunk's header, and a bare LF behind the last
chunk; a proxy in front that reads them otherwise would see other requests than we do.

Invariants: no more body is taken than the limit, and a chunk that would exceed it is refused by its
header; what is not body (extensions, trailers) is bounded as a head is, and thrown away.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from orchd.errors import ClientError, Code
from orchd.http1 import intake
from orchd.http1.limits import Limits

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
_HEADER = re.compile(rb"([0-9A-Fa-f]{1,16})((?:%b)*)" % _EXTENSION)
_TRAILER = re.compile(rb"%b:[\t -~\x80-\xff]*" % _TOKEN)
_CR_LF = b"\r\n"


class _Part(Enum):
    HEADER = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkReader:
    """One chunked body, read out of a buffer that grows at its end."""

    __slots__ = (
        "_aside_bytes",
        "_limits",
        "_part",
        "_rest_bytes",
        "_scanned",
        "_size_bytes",
        "_trailers",
        "is_whole",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._part = _Part.HEADER
        self._rest_bytes = 0
        self._size_bytes = 0
        self._aside_bytes = 0
        self._trailers = 0
        self._scanned = 0
        self.is_whole = False
        """True once the end of the last chunk's trailers has been read."""

    def read(self, inbox: bytearray, most_bytes: int) -> tuple[bytes, int]:
        """Take about so much off the front of ``inbox``: the body in it, and what it cost.

        The cost is its bytes, and for each line ``line_cost_bytes`` at least: a body of one-byte
        chunks is nearly all lines. Raises ClientError where it is malformed or exceeds a limit.
        """
        body = bytearray()
        cost_bytes = 0
        while inbox and cost_bytes < most_bytes and not self.is_whole:
            if self._part is _Part.DATA:
                cost_bytes += self._take_data(inbox, body)
                continue
            line = self._take_line(inbox)
            if line is None:
                break
            cost_bytes += max(len(line), self._limits.line_cost_bytes)
            match self._part:
                case _Part.HEADER:
                    self._read_header(line)
                case _Part.DATA_END:
                    self._part = _Part.HEADER
                case _Part.TRAILER if line:
                    self._read_trailer(line)
                case _Part.TRAILER:
                    self.is_whole = True
        return bytes(body), cost_bytes

    def _take_data(self, inbox: bytearray, body: bytearray) -> int:
        part = inbox[: self._rest_bytes]
        del inbox[: len(part)]
        body += part
        self._rest_bytes -= len(part)
        if not self._rest_bytes:
            self._part = _Part.DATA_END
        return len(part)

    def _take_line(self, inbox: bytearray) -> bytes | None:
        """The next line without its end; None where it has not come whole."""
        if self._part is _Part.DATA_END and not _CR_LF.startswith(inbox[:2]):
            raise intake.malformed("a chunk is longer than it said")
        end = inbox.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(inbox)
            self._check_aside(len(inbox))
            return None
        if inbox[end - 1 : end] != b"\r":
            raise intake.malformed("a line between chunks does not end in CR LF")
        line = bytes(inbox[: end - 1])
        del inbox[: end + 1]
        self._scanned = 0
        return line

    def _read_header(self, line: bytes) -> None:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise intake.malformed("illegal chunk header")
        extensions = header[2]
        self._aside_bytes += len(extensions)
        self._check_aside()
        self._rest_bytes = int(header[1], 16)
        self._size_bytes += self._rest_bytes
        if self._size_bytes > self._limits.body_bytes:
            raise intake.too_large(self._limits)
        self._part = _Part.DATA if self._rest_bytes else _Part.TRAILER

    def _read_trailer(self, line: bytes) -> None:
        if not _TRAILER.fullmatch(line):
            raise intake.malformed("illegal trailer line")
        self._trailers += 1
        self._aside_bytes += len(line)
        self._check_aside()

    def _check_aside(self, waiting_bytes: int = 0) -> None:
        limits = self._limits
        is_large = self._aside_bytes + waiting_bytes > limits.head_bytes
        if self._part is _Part.TRAILER and (is_large or self._trailers > limits.max_headers):
            message = "the trailers are larger, or more, than a head's fields may be"
            raise ClientError(Code.HEADERS_TOO_LARGE, message)
        if is_large:
            raise intake.malformed("the chunks' extensions are too long")

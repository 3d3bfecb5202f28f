"""Requests and replies as values, and the three protocols at this room's borders.

Invariants: a header name is lower-case everywhere; a ``Request`` exists only once its whole body
has been read; a ``Source`` is attached to at most one connection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from orchd.errors import ClientError

Headers = tuple[tuple[bytes, bytes], ...]
"""Header fields in order, names lower-case, as they stand on the wire."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's head: what is known before its body has been read."""

    method: str
    path: str
    """The target up to its query, still percent-encoded."""
    query: str
    headers: Headers
    peer: str = field(default="", compare=False)
    """Who asks, for the log: an address, or the account behind a unix socket."""
    version: bytes = b"1.1"
    is_chunked: bool = field(init=False, compare=False)
    """Its body comes in chunks: how much, and whether any, is not known before."""
    length_bytes: int | None = field(init=False, compare=False)
    """Of its body; None where the head does not say."""
    _values: Mapping[bytes, list[bytes]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # A dozen questions are asked of each head on its way.
        values: dict[bytes, list[bytes]] = {}
        for name, value in self.headers:
            values.setdefault(name, []).append(value)
        # h11 let digits through only, at most 20, and made equal lengths one.
        lengths = values.get(b"content-length")
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "is_chunked", b"transfer-encoding" in values)
        object.__setattr__(self, "length_bytes", int(lengths[0]) if lengths else None)

    @property
    def has_body(self) -> bool:
        """True if there is a body to come; a chunked one may prove empty."""
        return self.is_chunked or bool(self.length_bytes)

    def values(self, name: bytes) -> list[bytes]:
        """Every value of the field ``name`` (lower-case), in order of arrival."""
        return self._values.get(name, [])

    def value(self, name: bytes) -> bytes | None:
        """The field's value where it occurs exactly once, else None."""
        match self.values(name):
            case [only]:
                return only
            case _:
                return None


@dataclass(frozen=True, slots=True)
class Request:
    """A whole request."""

    head: Head
    params: Mapping[str, str]
    """What the route's ``{placeholders}`` matched, percent-decoded."""
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """A reply that is complete now; the connection adds ``Content-Length`` and ``Date``."""

    status: int
    body: bytes = b""
    headers: Headers = ()


class Source(Protocol):
    """Where a streamed body comes from. All calls are made on the event loop and none blocks."""

    def attach(self, wake: Callable[[], None]) -> None:
        """From now on call ``wake`` whenever there may be more to pull."""

    def detach(self) -> None:
        """The reader is gone or done; ``wake`` is not called any more."""

    def pull(self, limit_bytes: int) -> bytes:
        """What there is now, about ``limit_bytes`` of it; empty when nothing is there yet."""

    @property
    def has_more(self) -> bool:
        """True while there is something to pull."""

    @property
    def is_finished(self) -> bool:
        """True once everything has been pulled and nothing more will come."""

    def describe_wait(self) -> str:
        """What the stream waits for, to be told when it has been silent for a while."""


@dataclass(frozen=True, slots=True)
class StreamedResponse:
    """A reply whose body comes bit by bit: chunked on HTTP/1.1, close-delimited on HTTP/1.0."""

    source: Source = field(repr=False)
    status: int = 200
    headers: Headers = ()


class Awaited(Protocol):
    """What will be over some day; an ``asyncio.Future`` is such a thing.

    It calls in a later turn of the loop, also where it is over already.
    """

    def add_done_callback(self, call: Callable[[object], object], /) -> None:
        """Call this once it is over."""

    def remove_done_callback(self, call: Callable[[object], object], /) -> int:
        """Call this no more; it may have been booked already."""


@dataclass(frozen=True, slots=True)
class PendingResponse:
    """A reply that comes later. A client that leaves does not end what it waited for."""

    awaited: Awaited = field(repr=False)
    answer: Callable[[], Response] = field(repr=False)
    """What the reply is, once that is over; never raises."""


Reply = Response | StreamedResponse | PendingResponse
Handler = Callable[[Request], Reply]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A head that was let in: read the body, then call ``handler`` (which never raises)."""

    handler: Handler
    params: Mapping[str, str]
    refuse: Callable[[ClientError], Response] | None = None
    """What answers a body that breaks HTTP, where that is not ``Application.refuse``."""


class Application(Protocol):
    """What the connection asks of the house above it."""

    def open(self, head: Head) -> Accepted | Response:
        """Judge a head before its body is read: let it in, or answer it right away."""

    def refuse(self, error: ClientError) -> Response:
        """The reply to a request that broke HTTP itself."""

"""One request from its head to its answer: what is asked of the application, and when.

Invariant: a handler is called once, when its request is whole; a head that earned an answer by
itself gets it without waiting for a body.
"""

from __future__ import annotations

import h11

from orchd.errors import ClientError
from orchd.http1 import intake
from orchd.http1.limits import Limits
from orchd.http1.messages import Accepted, Application, Head, Reply, Request, Response

_NO_HEAD = Head("", "", "", ())


class Exchange:
    """The request under way, if there is one; ``end`` makes room for the next."""

    __slots__ = (
        "_application",
        "_body",
        "_limits",
        "_verdict",
        "awaits_body",
        "awaits_continue",
        "head",
        "is_last",
        "peer",
    )

    def __init__(self, application: Application, limits: Limits) -> None:
        self._application = application
        self._limits = limits
        self.peer = ""
        """Who is at the other end; the connection says it once it knows."""
        self.head = _NO_HEAD
        self.is_last = False
        """True where the client sends no other request behind it."""
        self.awaits_body = False
        """True where a body is wanted of which nothing has come."""
        self.awaits_continue = False
        """True where the client may send no body before it is told to."""
        self._verdict: Accepted | Response | None = None
        self._body = bytearray()

    def open(self, event: h11.Request) -> Response | None:
        """Judge a head: the answer, where a body that nobody wants need not be waited for.

        Raises ClientError where it breaks HTTP or announces too much.
        """
        self.head = head = intake.read_head(event, self.peer)
        intake.check_head(head, event)
        self.is_last = intake.is_last(head)
        self._verdict = self._application.open(head)
        has_body = head.has_body
        match self._verdict:
            case Response() if has_body:
                return self._verdict
            case Accepted() if has_body:
                intake.check_length(head, self._limits)
                self.awaits_body = True
                self.awaits_continue = intake.awaits_continue(head)
        return None

    def add(self, part: bytes) -> None:
        """A part of the body."""
        self._body += part
        self.awaits_body = False

    def answer(self) -> Reply:
        """The request is whole: call its handler, or give the answer that its head earned."""
        match self._verdict:
            case Response() as response:
                return response
            case Accepted(handler, params):
                return handler(Request(self.head, params, bytes(self._body)))
            case None:
                raise AssertionError("a request ended before its head was judged")

    def refuse(self, error: ClientError) -> Response:
        """The answer to what broke HTTP, by whoever has let its head in."""
        match self._verdict:
            case Accepted(refuse=refuse) if refuse is not None:
                return refuse(error)
            case _:
                return self._application.refuse(error)

    def end(self) -> None:
        """It is answered; keep nothing of it."""
        self.head = _NO_HEAD
        self.is_last = self.awaits_body = self.awaits_continue = False
        self._verdict = None
        self._body = bytearray()

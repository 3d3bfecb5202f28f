"""An application for the HTTP connection: a handful of routes and streams that a test feeds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from orchd.api import wire
from orchd.errors import ClientError, Code
from orchd.http1.messages import (
    Accepted,
    Head,
    PendingResponse,
    Reply,
    Request,
    Response,
    StreamedResponse,
)


class FakeSource:
    """A stream that gives what was pushed, one ``pull`` for all of it up to the limit."""

    def __init__(self, *frames: bytes, is_ended: bool = False) -> None:
        self.frames = list(frames)
        self.is_ended = is_ended
        self.pulls = 0
        self.detached = 0
        self.failure: Exception | None = None
        self._wake: Callable[[], None] | None = None

    @property
    def is_attached(self) -> bool:
        return self._wake is not None

    def push(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.wake()

    def end(self) -> None:
        self.is_ended = True
        self.wake()

    def wake(self) -> None:
        if self._wake is not None:
            self._wake()

    def attach(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def detach(self) -> None:
        self._wake = None
        self.detached += 1

    def pull(self, limit_bytes: int) -> bytes:
        if self.failure is not None:
            raise self.failure
        self.pulls += 1
        taken = b""
        while self.frames and (not taken or len(taken) + len(self.frames[0]) <= limit_bytes):
            taken += self.frames.pop(0)
        return taken

    @property
    def is_finished(self) -> bool:
        return self.is_ended and not self.frames

    @property
    def has_more(self) -> bool:
        return bool(self.frames)

    def describe_wait(self) -> str:
        return "waiting"


class FakeApplication:
    """Shows what reached it; ``/stream/N`` is the Nth source that it was given, ``/later`` is
    answered by the last of ``futures`` so far, and 500 where that fails."""

    def __init__(self, *sources: FakeSource) -> None:
        self.sources = sources
        self.heads: list[Head] = []
        self.requests: list[Request] = []
        self.futures: list[asyncio.Future[Response]] = []
        self.answered = 0
        """How often it was asked what came of them."""

    def open(self, head: Head) -> Accepted | Response:
        self.heads.append(head)
        match head.path.split("/")[1:]:
            case ["secret"]:
                return wire.error_response(Code.UNAUTHORIZED, "no token")
            case ["echo" | "large" | "nothing" | "later"]:
                return Accepted(self._handle, {})
            case ["choosy"]:
                refuse = partial(wire.error_response, Code.CONFLICT)
                return Accepted(self._handle, {}, lambda error: refuse(f"choosy: {error}"))
            case ["stream", number] if number in map(str, range(len(self.sources))):
                return Accepted(self._handle, {})
            case _:
                return wire.error_response(Code.NOT_FOUND, f"there is no {head.path[:128]} here")

    def refuse(self, error: ClientError) -> Response:
        return wire.error_response(error.code, str(error))

    def _handle(self, request: Request) -> Reply:
        self.requests.append(request)
        match request.head.path.split("/")[1:]:
            case ["stream", number]:
                headers = ((b"content-type", b"text/event-stream"),)
                return StreamedResponse(self.sources[int(number)], headers=headers)
            case ["later"]:
                return self._promise()
            case ["nothing"]:
                return Response(204)
            case ["large"]:
                return Response(200, bytes(int(request.body)))
            case _:
                return Response(200, request.body or b"hello")

    def _promise(self) -> PendingResponse:
        future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.futures.append(future)

        def answer() -> Response:
            self.answered += 1
            try:
                return future.result()
            except (Exception, asyncio.CancelledError):
                return wire.error_response(Code.INTERNAL, "it failed")

        return PendingResponse(future, answer)

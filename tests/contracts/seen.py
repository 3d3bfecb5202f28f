"""The tests' own HTTP clients, and the door within the process, each with a witness at its side."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import httpx
from httpx_sse import ServerSentEvent

from orchd.api.door import Door
from orchd.errors import ClientError
from orchd.http1.messages import (
    Accepted,
    Head,
    PendingResponse,
    Reply,
    Request,
    Response,
    StreamedResponse,
)
from tests.contracts.witness import EVENTS, WITNESS
from tests.e2e.clients.client import Answer, Event, HttpClient


class SeenResponse(http.client.HTTPResponse):
    """An answer that is held to the contracts as far as it is read."""

    witness = WITNESS
    asked = ("", "")
    """Method and target of its request; the connection says it."""
    _read_so_far = b""

    @property
    def _is_stream(self) -> bool:
        return self.headers.get_content_type() == EVENTS

    def look(self) -> None:
        """Judge the head, and with it the body that it does not have."""
        is_bare = self.asked[0] == "HEAD" or self.status == 204
        self._hold(b"" if is_bare else None)

    def read(self, amt: int | None = None) -> bytes:
        """Judge the body where it came in one piece, and of a stream each event that is whole."""
        is_first = not self._read_so_far
        data = super().read(amt)
        self._read_so_far += data
        if self._is_stream:
            *frames, rest = self._read_so_far.split(b"\n\n")
            for frame in frames:
                self.witness.hold_frame(frame.decode())
            self._read_so_far = rest
        elif is_first and data and self.isclosed():
            self._hold(data)
        return data

    def _hold(self, body: bytes | None) -> None:
        self.witness.hold(*self.asked, self.status, self.getheaders(), body)


class SeenConnection(http.client.HTTPConnection):
    """``http.client``, whose answers are held to the contracts."""

    response_class = SeenResponse
    _asked = ("", "")

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        """Remember what was asked."""
        self._asked = (method, url)
        super().putrequest(method, url, *args, **kwargs)

    def getresponse(self) -> SeenResponse:
        """The answer, its head judged."""
        response = super().getresponse()
        assert isinstance(response, SeenResponse)
        response.asked = self._asked
        response.look()
        return response


def see_httpx(response: httpx.Response) -> None:
    """A hook for httpx's answers; of a stream it sees the head alone."""
    is_stream = response.headers.get("content-type") == EVENTS
    _hold_httpx(response, None if is_stream else response.read())


async def see_httpx_async(response: httpx.Response) -> None:
    """The same for its asynchronous client."""
    is_stream = response.headers.get("content-type") == EVENTS
    _hold_httpx(response, None if is_stream else await response.aread())


def _hold_httpx(response: httpx.Response, body: bytes | None) -> None:
    request, headers = response.request, response.headers.items()
    WITNESS.hold(request.method, request.url.path, response.status_code, headers, body)


def see_events(events: Iterator[ServerSentEvent]) -> Iterator[ServerSentEvent]:
    """The same events, each judged on its way."""
    for event in events:
        if not is_comment(event):
            WITNESS.hold_event(event.event, event.data)
            yield event


def is_comment(event: ServerSentEvent) -> bool:
    """Whether it is none: of a comment behind an event with an id, httpx-sse makes one without
    data."""
    return (event.event, event.data) == ("message", "")


class SeenClient:
    """A foreign client, whose answers are held to the contracts as it tells them."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One request and its whole answer."""
        answer = self._client.ask(method, path, headers, body)
        WITNESS.hold(method, path, answer.status, answer.headers.items(), answer.body)
        return answer

    @contextlib.contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[Answer, Iterator[Event]]]:
        """The answer's head and its events."""
        with self._client.stream(path, headers) as (answer, events):
            WITNESS.hold("GET", path, answer.status, answer.headers.items(), None)
            yield answer, self._see(events)

    @staticmethod
    def _see(events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            WITNESS.hold_event(event.name, event.data)
            yield event

    def close(self) -> None:
        """Let go of every connection and process."""
        self._client.close()


class SeenDoor:
    """The door, whose replies are held to the contracts before the connection has them."""

    def __init__(self, *door: Any) -> None:
        self._door = Door(*door)
        self.witness = WITNESS

    def open(self, head: Head) -> Accepted | Response:
        match self._door.open(head):
            case Response() as reply:
                return self._see(head, reply)
            case Accepted(handler, _, refuse) as accepted:
                return replace(
                    accepted,
                    handler=self._seeing(head, handler),
                    refuse=refuse and self._seeing_refusal(head, refuse),
                )

    def refuse(self, error: ClientError) -> Response:
        """The server may add to it, and does where too many connections are open."""
        reply = self._door.refuse(error)
        self._hold("", "", reply, is_whole=False)
        return reply

    def _seeing(
        self, head: Head, handler: Callable[[Request], Reply]
    ) -> Callable[[Request], Reply]:
        def run(request: Request) -> Reply:
            reply = handler(request)
            if isinstance(reply, PendingResponse):
                answer = reply.answer
                return replace(reply, answer=lambda: self._see(head, answer()))
            self._hold(head.method, head.path, reply)
            return reply

        return run

    def _seeing_refusal(
        self, head: Head, refuse: Callable[[ClientError], Response]
    ) -> Callable[[ClientError], Response]:
        return lambda error: self._see(head, refuse(error))

    def _see(self, head: Head, reply: Response) -> Response:
        self._hold(head.method, head.path, reply)
        return reply

    def _hold(
        self, method: str, path: str, reply: Response | StreamedResponse, *, is_whole: bool = True
    ) -> None:
        headers = [(name.decode(), value.decode("latin-1")) for name, value in reply.headers]
        body = reply.body if isinstance(reply, Response) else None
        self.witness.hold(method, path, reply.status, headers, body, is_whole=is_whole)

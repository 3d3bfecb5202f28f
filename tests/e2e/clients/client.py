"""What every foreign client is made to do, and what it brings back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    id: str
    name: str
    data: str


class HttpClient(Protocol):
    """One implementation of HTTP that shares nothing with orchd's."""

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """One request and its whole answer."""

    def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> AbstractContextManager[tuple[Answer, Iterator[Event]]]:
        """The answer's head and its events as they come. The iterator ends where the answer ends
        well, and raises where it breaks off; leaving the context hangs up."""

    def close(self) -> None:
        """Let go of every connection and process."""


def parse_events(lines: Iterable[bytes]) -> Iterator[Event]:
    """The events in the lines of a stream, for clients that know no server-sent events."""
    fields: dict[str, str] = {}
    for line in lines:
        text = line.decode().rstrip("\n")
        if text.startswith(":"):
            continue
        if text:
            name, _, value = text.partition(": ")
            assert name not in fields, f"{name} twice in one event"
            fields[name] = value
        elif fields:
            yield Event(fields["id"], fields["event"], fields["data"])
            fields = {}
    assert not fields, f"the stream ends within an event: {fields}"


def parse_head(lines: Iterable[bytes]) -> Answer:
    """The head of an answer, its body left out; the lines begin with the status line."""
    status_line, *fields = [line.decode("latin-1").rstrip("\r\n") for line in lines]
    pairs = [field.split(": ", 1) for field in fields]
    return Answer(int(status_line.split(" ")[1]), {k.lower(): v for k, v in pairs}, b"")

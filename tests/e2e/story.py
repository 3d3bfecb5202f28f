"""A task's events, read to their end and held against the contract."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.fakes.daemon import TIMEOUT_S, read_events


@dataclass(frozen=True)
class Story:
    """A task's events to its end; made only from such as the contract allows."""

    names: list[str]
    last: dict[str, Any]
    text: str

    @property
    def tokens(self) -> int:
        return self.names.count("token")


def tell_story(events: Sequence[tuple[str, Any]], engine: str = "llamacpp") -> Story:
    """Check that it is ``started? token* (end|error)``, and hold on to what matters."""
    names = [name for name, _ in events]
    assert names and names[-1] in ("end", "error"), names
    tokens = [data for name, data in events if name == "token"]
    is_started = names[0] == "started"
    assert names == ["started"] * is_started + ["token"] * len(tokens) + names[-1:], names
    assert is_started or names == ["error"], names
    assert [token["i"] for token in tokens] == list(range(len(tokens)))
    last = dict(events[-1][1])
    if names[-1] == "error":
        assert set(last) == {"code", "message", "engine"} and last["engine"] == engine, last
    return Story(names, last, "".join(token["t"] for token in tokens))


class Bounded:
    """A stream that has to end: one that is pinged for ever would hang its reader."""

    def __init__(self, stream: http.client.HTTPResponse) -> None:
        self._stream = stream

    def read(self) -> bytes:
        deadline_s = time.monotonic() + TIMEOUT_S
        lines = []
        for line in self._stream:
            lines.append(line)
            assert time.monotonic() < deadline_s, f"it never ended: {lines[-20:]}"
        return b"".join(lines)


def read_story(stream: http.client.HTTPResponse) -> Story:
    """The story of a stream, which must end in time."""
    return tell_story(read_events(Bounded(stream)))

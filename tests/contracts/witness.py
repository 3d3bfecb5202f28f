"""Holds every answer that a test's client or door sees to the contracts, as it happens.

What is not documented fails the test that saw it: a status, a header field, a media type, a key of
a body, an event. The schemas are closed (a test sees to that), so a key more is as much of a breach
as one less.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from tests.contracts.documents import CONTRACTS, OUTSIDE, Contracts, Operation, Spot

OF_HTTP_ITSELF = frozenset(
    ("connection", "content-length", "content-type", "date", "transfer-encoding")
)
"""Header fields that any answer may have, as data.yaml's description says once for all."""
EVENTS = "text/event-stream"


class UndocumentedError(AssertionError):
    """The daemon said what the contracts do not."""


class Witness:
    """Judges by these documents, and remembers what it saw: operation and status."""

    def __init__(self, contracts: Contracts = CONTRACTS) -> None:
        self.contracts = contracts
        self.seen: Counter[tuple[str, int]] = Counter()

    def hold(
        self,
        method: str,
        target: str,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes | None,
        *,
        is_whole: bool = True,
    ) -> None:
        """Judge one answer; ``body`` is None where it was not read, ``target`` empty for unknown.

        One that is not whole may yet get header fields. Raises UndocumentedError.
        """
        operation = self.contracts.find(method, target)
        who = operation.operation_id if operation else OUTSIDE
        self.seen[who, status] += 1
        answers = self.contracts.responses(operation)
        about = f"{method} {target[:64]} -> {status}"
        if str(status) not in self.contracts.read(answers):
            raise UndocumentedError(f"{about}: {who} has no such status")
        answer, told = self.contracts.follow(answers.below(str(status)))
        fields = {name.lower(): value for name, value in headers}
        self._hold_headers(about, answer, told, fields, is_whole)
        if "content" not in told:
            if body or fields.get("content-type"):
                raise UndocumentedError(f"{about}: no body is documented")
            return
        media_type = fields.get("content-type", "")
        if media_type not in told["content"]:
            raise UndocumentedError(f"{about}: the body is {media_type!r}")
        if body is not None and method != "HEAD":
            self._hold_body(about, answer.below("content", media_type, "schema"), media_type, body)

    def _hold_headers(
        self,
        about: str,
        answer: Spot,
        told: Mapping[str, Any],
        fields: Mapping[str, str],
        is_whole: bool,
    ) -> None:
        documented = {name.lower(): name for name in told.get("headers", ())}
        for name in fields.keys() - documented.keys() - OF_HTTP_ITSELF:
            raise UndocumentedError(f"{about}: the header field {name} is not documented")
        for lower, name in documented.items():
            spot, header = self.contracts.follow(answer.below("headers", name))
            if lower in fields:
                value: str | int = fields[lower]
                if header["schema"]["type"] == "integer":
                    value = int(value)
                self._judge(f"{about}: {name}", spot.below("schema"), value)
            elif header.get("required") and is_whole:
                raise UndocumentedError(f"{about}: the header field {name} is missing")

    def _hold_body(self, about: str, schema: Spot, media_type: str, body: bytes) -> None:
        if media_type == "application/json":
            self._judge(about, schema, json.loads(body))
        elif media_type == EVENTS:
            for frame in body.decode().split("\n\n")[:-1]:
                self.hold_frame(frame)

    def hold_frame(self, frame: str) -> None:
        """Judge one server-sent event, or a comment, without its empty line."""
        fields = dict(line.split(": ", 1) for line in frame.split("\n") if line[0] != ":")
        if fields:
            if fields.keys() != {"id", "event", "data"} or not fields["id"].isdigit():
                raise UndocumentedError(f"an event has other fields: {frame!r}")
            self.hold_event(fields["event"], fields["data"])

    def hold_event(self, name: str, data: str) -> None:
        """Judge one event of a stream."""
        events = stream_of(self.contracts).spot.below("x-sse-events")
        if name not in self.contracts.read(events):
            raise UndocumentedError(f"no event {name!r} is documented")
        self._judge(f"event {name}", events.below(name, "schema"), json.loads(data))

    def _judge(self, about: str, schema: Spot, value: object) -> None:
        for error in self.contracts.validator(schema).iter_errors(value):
            raise UndocumentedError(f"{about}: {error.message} at {error.json_path}")


def stream_of(contracts: Contracts) -> Operation:
    """The operation whose answer is a stream of events."""
    (found,) = (one for one in contracts.operations if "x-sse-events" in contracts.read(one.spot))
    return found


WITNESS = Witness()
"""The one that the tests' clients and doors ask."""

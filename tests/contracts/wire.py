"""Requests as bytes, built from what the contracts say of an operation, and their answers."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.contracts.documents import CONTRACTS, Operation, Spot
from tests.contracts.seen import SeenResponse
from tests.fakes.daemon import TIMEOUT_S, TOKEN


@dataclass(frozen=True)
class Answer:
    """What came, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Request:
    """A request that is sound, until a test bends it."""

    method: str
    target: str
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    version: str = "HTTP/1.1"
    is_announced: bool = True
    """Whether the head tells of the body's length."""

    def with_fields(self, **fields: str) -> Request:
        """The same with further header fields, ``_`` for ``-``."""
        more = {name.replace("_", "-"): value for name, value in fields.items()}
        return replace(self, fields=self.fields | more)

    def encode(self) -> bytes:
        fields = {"Host": "a", "Authorization": f"Bearer {TOKEN}", **self.fields}
        if self.body and self.is_announced:
            fields.setdefault("Content-Length", str(len(self.body)))
        lines = [f"{self.method} {self.target} {self.version}"]
        lines += [f"{name}: {value}" for name, value in fields.items() if value]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


OF_A_POOL = "pool_id"
NO_POOL = "no-such-pool"
"""An operation on a pool may end what all the others need. Where requests are bent, multiplied or
made up it is aimed at a pool that is not there: what it does to one that is, its own tests show."""


def list_examples(operation: Operation, **instead: str) -> Iterator[tuple[str, Request]]:
    """The operation's requests as the contract's own examples make them, by name.

    The parameters' examples, or what is to stand ``instead``, fill the path and the header; each
    body is one request.
    """
    told = CONTRACTS.read(operation.spot)
    target, fields = operation.path, {}
    above = Spot(operation.spot.document, operation.spot.way[:-1])
    for spot in (above, operation.spot):
        for number, _ in enumerate(CONTRACTS.read(spot).get("parameters", ())):
            parameter = read_parameter(spot, number)
            name = parameter["name"]
            value = instead.get(name, parameter["example"])
            if parameter["in"] == "path":
                target = target.replace(f"{{{name}}}", value)
            else:
                fields[name] = value
    plain = Request(operation.method, target, fields)
    if "requestBody" not in told:
        yield "plain", plain
        return
    content = told["requestBody"]["content"]["application/json"]
    for name, example in content["examples"].items():
        body = json.dumps(example["value"]).encode()
        typed = plain.with_fields(Content_Type="application/json")
        yield name, replace(typed, body=body)


def read_parameter(spot: Spot, number: int) -> dict[str, Any]:
    """One of a list, which may refer to another place."""
    listed = CONTRACTS.read(spot)["parameters"][number]
    if "$ref" in listed:
        document, _, way = listed["$ref"].partition("#/")
        return dict(CONTRACTS.read(Spot(document or spot.document, tuple(way.split("/")))))
    return dict(listed)


@contextlib.contextmanager
def sending(port: int, data: bytes) -> Iterator[socket.socket]:
    """The bytes are sent; the answer is to be read from the socket."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as sock:
        sock.sendall(data)
        yield sock


def read_answer(sock: socket.socket, method: str, target: str) -> Answer:
    """Read an answer to its end, held to the contracts; no target for a request without one."""
    with SeenResponse(sock, method=method or "GET") as response:
        response.begin()
        response.asked = (method, target)
        response.look()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())


def ask(port: int, request: Request) -> Answer:
    """One request on a connection of its own."""
    with sending(port, request.encode()) as sock:
        return read_answer(sock, request.method, request.target)


def mask(text: str) -> str:
    """A message without what is of its moment and its machine: ids, figures and folders."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)
    text = re.sub(r"(/[^/\s;]+)+/", "/models/", text)
    return re.sub(r"\d+", "N", text)


def shape(value: Any) -> Any:
    """Its keys and the types of what they hold, the elements of a list taken together."""
    match value:
        case dict():
            return {key: shape(inner) for key, inner in value.items()}
        case list():
            return [shape(inner) for inner in value[:1]]
        case bool() | str() | None:
            return type(value).__name__
        case _:
            return "number"


def is_like(example: Any, actual: Any) -> bool:
    """Whether two shapes agree; null stands for anything, an empty list for any other."""
    match example, actual:
        case dict(), dict():
            return example.keys() == actual.keys() and all(
                is_like(inner, actual[key]) for key, inner in example.items()
            )
        case [one], [other]:
            return is_like(one, other)
        case list(), list():
            return True
        case _:
            return example == actual or "NoneType" in (example, actual)

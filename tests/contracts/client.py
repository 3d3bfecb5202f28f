"""A client that knows nothing but contracts/openapi: what a reader of them alone would write.

It is told where the folder is, a server, the token and operation ids. Methods, paths, the security
scheme, media types, links and events it reads there; nothing of orchd is imported.
"""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml


class Event(NamedTuple):
    """One of a stream."""

    name: str
    data: dict[str, Any]
    is_last: bool


class Client:
    """Calls operations by their ids."""

    def __init__(self, folder: Path, token: str, server: str | None = None) -> None:
        self._documents = [yaml.safe_load(path.read_text()) for path in sorted(folder.iterdir())]
        self._token = token
        self._server = server
        """Another than the documents name."""

    def _find(self, operation_id: str) -> tuple[dict[str, Any], str, str, dict[str, Any]]:
        for document in self._documents:
            for path, methods in document["paths"].items():
                for method, told in methods.items():
                    if isinstance(told, dict) and told.get("operationId") == operation_id:
                        return document, method.upper(), path, told
        raise LookupError(operation_id)

    def _open(self, operation_id: str, body: Any = None, **parameters: str) -> Any:
        document, method, path, told = self._find(operation_id)
        scheme = document["components"]["securitySchemes"][next(iter(document["security"][0]))]
        assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
        headers = {"Authorization": f"{scheme['scheme']} {self._token}"}
        data = None
        if body is not None:
            (media_type,) = told["requestBody"]["content"]
            headers["Content-Type"] = media_type
            data = json.dumps(body).encode()
        path = re.sub(r"\{(\w+)\}", lambda its: urllib.parse.quote(parameters[its[1]]), path)
        server = self._server or document["servers"][0]["url"]
        asked = urllib.request.Request(server + path, data, headers, method=method)
        answer = urllib.request.urlopen(asked, timeout=30)
        assert str(answer.status) in told["responses"]
        return answer

    def call(self, operation_id: str, body: Any = None, **parameters: str) -> Any:
        """The answer's body, None where the contract has none."""
        told = self._find(operation_id)[3]
        with self._open(operation_id, body, **parameters) as answer:
            content = told["responses"][str(answer.status)].get("content")
            if content is None:
                return None
            ((media_type, _),) = content.items()
            text = answer.read().decode()
            return json.loads(text) if media_type == "application/json" else text

    def follow(self, operation_id: str, link: str, body: Any) -> tuple[str, dict[str, str]]:
        """Where a link of its answer leads: the operation's id, and its parameters."""
        responses = self._find(operation_id)[3]["responses"].values()
        (links,) = (told["links"] for told in responses if "links" in told)
        parameters = {
            name: str(body[expression.removeprefix("$response.body#/")])
            for name, expression in links[link]["parameters"].items()
        }
        return links[link]["operationId"], parameters

    def stream(self, operation_id: str, **parameters: str) -> Iterator[Event]:
        """The events to the terminal one, by the names and the schemas of ``x-sse-events``."""
        document, _, _, told = self._find(operation_id)
        events = told["x-sse-events"]
        with self._open(operation_id, **parameters) as answer:
            for event in _read_sse(answer):
                schema = _resolve(document, events[event["event"]]["schema"])
                data = json.loads(event["data"])
                assert data.keys() == set(schema["required"])
                is_last = events[event["event"]]["terminal"]
                yield Event(event["event"], data, is_last)
                if is_last:
                    return


def _read_sse(lines: Iterator[bytes]) -> Iterator[dict[str, str]]:
    """Server-sent events as their own standard has them."""
    fields: dict[str, str] = {}
    for line in lines:
        text = line.decode().rstrip("\n")
        if not text and fields:
            yield fields
            fields = {}
        elif text and not text.startswith(":"):
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")


def _resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found = document
    for key in schema["$ref"].removeprefix("#/").split("/"):
        found = found[key]
    return found

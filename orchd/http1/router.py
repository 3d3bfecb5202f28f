"""Finds the route of a method and path in one table.

Patterns are literal segments and ``{name}`` segments. The path is split before it is
percent-decoded, so an encoded slash never makes a new segment (RFC 3986, section 2.2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")


class Body(Enum):
    """What a route makes of a request's body."""

    UNUSED = auto()
    """One that comes is read and passed over."""
    OPTIONAL = auto()
    """An empty one is none, however it is framed."""
    NEEDED = auto()


@dataclass(frozen=True, slots=True)
class Route(Generic[T]):
    """One row of the table."""

    method: str
    pattern: str
    target: T
    body: Body = Body.UNUSED


@dataclass(frozen=True, slots=True)
class Match(Generic[T]):
    """The row that fits, and what its placeholders hold."""

    target: T
    params: Mapping[str, str]
    body: Body = Body.UNUSED


@dataclass(frozen=True, slots=True)
class NotAllowed:
    """The path is known, the method is not; ``allow`` lists those that are, for the header."""

    allow: tuple[str, ...]


class Router(Generic[T]):
    """Looks routes up; built once from the whole table."""

    def __init__(self, routes: Sequence[Route[T]]) -> None:
        self._paths: dict[tuple[str, ...], dict[str, Route[T]]] = {}
        for route in routes:
            methods = self._paths.setdefault(tuple(route.pattern.split("/")), {})
            assert route.method not in methods, f"two routes for {route.method} {route.pattern}"
            methods[route.method] = route
        self._plain = {
            pattern: methods
            for pattern, methods in self._paths.items()
            if not any(segment.startswith("{") for segment in pattern)
        }
        """Those that a path can be looked up in as it is written."""

    def match(self, method: str, path: str) -> Match[T] | NotAllowed | None:
        """Return the match; None where the path itself is unknown. HEAD stands in for GET."""
        segments = tuple(path.split("/"))
        if (methods := self._plain.get(segments)) is not None:
            return _choose(methods, method, {})
        for pattern, methods in self._paths.items():
            params = _match_segments(pattern, segments)
            if params is not None:
                return _choose(methods, method, params)
        return None


def _choose(
    methods: Mapping[str, Route[T]], method: str, params: Mapping[str, str]
) -> Match[T] | NotAllowed:
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None:
        return NotAllowed(_allowed(methods))
    return Match(route.target, params, route.body)


def _match_segments(pattern: tuple[str, ...], segments: tuple[str, ...]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    params: dict[str, str] = {}
    for expected, segment in zip(pattern, segments, strict=True):
        decoded = unquote(segment)
        if expected.startswith("{"):
            params[expected[1:-1]] = decoded
        elif expected != decoded:
            return None
    return params


def _allowed(methods: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(sorted({*methods, "HEAD"} if "GET" in methods else methods))

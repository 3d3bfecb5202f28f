"""The table of routes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.http1.router import Match, NotAllowed, Route, Router

ROUTER = Router(
    [
        Route("GET", "/health", "health"),
        Route("POST", "/v1/tasks", "submit"),
        Route("GET", "/v1/tasks/{task_id}/stream", "stream"),
        Route("POST", "/v1/tasks/{task_id}/cancel", "cancel"),
        Route("GET", "/both", "read"),
        Route("POST", "/both", "write"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/health", Match("health", {})),
        ("HEAD", "/health", Match("health", {})),
        ("GET", "/%68ealth", Match("health", {})),
        ("GET", "/v1/tasks/7/stream", Match("stream", {"task_id": "7"})),
        ("GET", "/v1/tasks/a%20b/stream", Match("stream", {"task_id": "a b"})),
        ("GET", "/v1/tasks/a%2Fb/stream", Match("stream", {"task_id": "a/b"})),
        ("GET", "/v1/tasks/%ff/stream", Match("stream", {"task_id": "\ufffd"})),
        ("GET", "/v1/tasks/%zz/stream", Match("stream", {"task_id": "%zz"})),
        ("GET", "/v1/tasks//stream", Match("stream", {"task_id": ""})),
        ("GET", "/v1/tasks/{task_id}/stream", Match("stream", {"task_id": "{task_id}"})),
        ("POST", "/both", Match("write", {})),
        ("POST", "/health", NotAllowed(("GET", "HEAD"))),
        ("get", "/health", NotAllowed(("GET", "HEAD"))),
        ("HEAD", "/v1/tasks", NotAllowed(("POST",))),
        ("DELETE", "/both", NotAllowed(("GET", "HEAD", "POST"))),
        ("DELETE", "/v1/tasks/7/stream", NotAllowed(("GET", "HEAD"))),
        ("GET", "/", None),
        ("GET", "", None),
        ("GET", "*", None),
        ("GET", "health", None),
        ("GET", "/health/", None),
        ("GET", "//health", None),
        ("GET", "/Health", None),
        ("GET", "/v1%2Ftasks", None),
        ("GET", "/v1/tasks/a/b/stream", None),
        ("GET", "/v1/tasks/../stream/x", None),
    ],
)
def test_match(method: str, path: str, expected: object) -> None:
    assert ROUTER.match(method, path) == expected


def test_a_route_stands_once_in_the_table() -> None:
    with pytest.raises(AssertionError, match="two routes for GET /a"):
        Router([Route("GET", "/a", 1), Route("GET", "/a", 2)])


@given(st.text(), st.text())
def test_no_text_breaks_it(method: str, path: str) -> None:
    ROUTER.match(method, path)
    ROUTER.match("GET", f"/v1/tasks/{path}/stream")

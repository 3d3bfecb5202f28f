"""Who answers a body that breaks HTTP: whoever let its head in, if that has a word of its own."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.http1.limits import Limits
from tests.conftest import Drive
from tests.fakes.application import FakeApplication
from tests.http1.raw import client_of, serving

LIMITS = Limits(body_bytes=10)
TOO_LARGE = b"Content-Length: 11\r\n\r\n"
TOO_LARGE_IN_CHUNKS = b"Transfer-Encoding: chunked\r\n\r\nb\r\n12345678901\r\n0\r\n\r\n"
NO_CHUNK = b"Transfer-Encoding: chunked\r\n\r\nx\r\n"
BAD_HEAD = b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n"


@pytest.mark.parametrize(
    ("path", "rest", "status", "is_choosy"),
    [
        (b"/choosy", TOO_LARGE, 409, True),
        (b"/choosy", TOO_LARGE_IN_CHUNKS, 409, True),
        (b"/choosy", NO_CHUNK, 409, True),
        (b"/choosy", BAD_HEAD, 400, False),
        (b"/echo", TOO_LARGE, 413, False),
        (b"/echo", NO_CHUNK, 400, False),
        (b"/nowhere", TOO_LARGE, 404, False),
    ],
)
def test_who_answers(
    drive: Drive[Any], path: bytes, rest: bytes, status: int, is_choosy: bool
) -> None:
    async def scenario() -> None:
        async with serving(FakeApplication(), LIMITS) as (_, listen), client_of(listen) as client:
            answer = await client.ask(b"POST %s HTTP/1.1\r\nHost: a\r\n%s" % (path, rest))
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert str(answer.envelope()["message"]).startswith("choosy: ") == is_choosy

    drive(scenario())


def test_the_next_request_is_answered_for_itself(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with serving(FakeApplication(), LIMITS) as (_, listen), client_of(listen) as client:
            good = b"POST /choosy HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
            assert (await client.ask(good)).body == b"hi"
            answer = await client.ask(b"POST /echo HTTP/1.1\r\n\r\n")
            assert (answer.status, answer.envelope()["code"]) == (400, "INVALID_PARAMS")

    drive(scenario())

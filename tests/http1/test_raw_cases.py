"""The real door over a real socket: for each sequence of bytes the exact status, code and fate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchd.errors import Code
from orchd.http1.limits import Limits
from orchd.serving.task import Ended, Started, Token
from tests.conftest import Drive
from tests.contracts.seen import SeenDoor
from tests.fakes.house import TASK_ID, FakeReplica, FakeService, build_context
from tests.http1 import raw_cases
from tests.http1.raw import Client, one_client
from tests.http1.raw_cases import CONTINUE, GET, JSON, TOKEN, Case, Fate

CASES = [*raw_cases.FRAMING, *raw_cases.HEADS, *raw_cases.ROUTED]
# As long as nothing is waited for that does not come, its time does not come either.
NEVER_S = 60.0
PATIENT = Limits(linger_s=NEVER_S)


@asynccontextmanager
async def client_of_the_house() -> AsyncIterator[tuple[Client, FakeService]]:
    service = FakeService()
    service.add(TASK_ID, Started(0, 0), Token("a", 0), Ended(1, 1, 1, "stop"))
    door = SeenDoor(build_context(service, FakeReplica()), TOKEN)
    async with one_client(door, PATIENT) as client:
        yield client, service


def test_no_case_has_the_name_of_another() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_becomes_of(drive: Drive[Any], case: Case) -> None:
    async def scenario() -> None:
        async with client_of_the_house() as (client, service):
            await client.send(case.data)
            for status, code in case.answers:
                answer = await client.answer(case.is_head)
                assert answer.status == status
                if code is not None:
                    assert answer.envelope()["code"] == code
                if status != 100:
                    assert answer.headers["date"].endswith(" GMT")
            if case.answers == (CONTINUE,):
                await finish_the_body(client, case)
            elif case.fate is Fate.KEPT:
                assert "connection" not in answer.headers
                assert (await client.ask(GET)).status == 200
            else:
                assert answer.headers["connection"] == "close"
                assert await client.is_closed()
            admitted = sum(status == 202 for status, _ in case.answers)
            assert len(service.submitted) == admitted + (case.answers == (CONTINUE,))

    drive(scenario())


async def finish_the_body(client: Client, case: Case) -> None:
    """The invitation comes once; what was invited is admitted."""
    is_chunked = b"chunked\r\n" in case.data
    parts = (
        [b"13\r\n", JSON[:5], JSON[5:], b"\r\n0\r\n\r\n"] if is_chunked else [JSON[:5], JSON[5:]]
    )
    for part in parts:
        await client.send(part)
        await asyncio.sleep(0.002)
    assert (await client.answer()).status == 202
    assert (await client.ask(GET)).status == 200


@pytest.mark.parametrize("length", [b"Transfer-Encoding: chunked", b"Content-Length: 19"])
def test_a_body_that_has_begun_to_come_need_not_be_invited(
    drive: Drive[Any], length: bytes
) -> None:
    async def scenario() -> None:
        async with client_of_the_house() as (client, service):
            is_chunked = length.endswith(b"chunked")
            before, after = (b"13\r\n", b"\r\n0\r\n\r\n") if is_chunked else (b"", b"")
            head = raw_cases.post(b"Expect: 100-continue\r\n" + length + b"\r\n")
            await client.send(head + before + JSON[:5])
            await asyncio.sleep(0.005)
            assert (await client.ask(JSON[5:] + after)).status == 202
            assert len(service.submitted) == 1

    drive(scenario())


@pytest.mark.parametrize("name", raw_cases.WORDLESS)
def test_a_close_without_an_answer(drive: Drive[Any], name: str) -> None:
    async def scenario() -> None:
        async with client_of_the_house() as (client, _):
            client.writer.write(raw_cases.WORDLESS[name])
            client.writer.write_eof()
            assert await client.is_closed()

    drive(scenario())


def test_a_wrong_method_is_told_which_are_right(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with client_of_the_house() as (client, _):
            answer = await client.ask(b"HEAD /v1/tasks HTTP/1.1\r\n" + raw_cases.HOST + b"\r\n")
            assert answer.headers["allow"] == "POST"
            answer = await client.ask(b"POST /health HTTP/1.1\r\n" + raw_cases.HOST + b"\r\n")
            assert answer.headers["allow"] == "GET, HEAD"

    drive(scenario())


@pytest.mark.parametrize("path", [b"/health", raw_cases.STREAM])
def test_head_has_the_headers_of_get(drive: Drive[Any], path: bytes) -> None:
    async def scenario() -> None:
        async with client_of_the_house() as (client, _):
            rest = b" %b HTTP/1.1\r\n%b\r\n" % (path, raw_cases.HOST)
            head, get = await client.ask(b"HEAD" + rest), await client.ask(b"GET" + rest)
            for answer in (head, get):
                del answer.headers["date"]
            assert head.headers == get.headers
            assert not head.body and get.body

    drive(scenario())


def test_what_is_refused_tells_nothing_of_what_was_sent(drive: Drive[Any]) -> None:
    """Not even of a token, should one stand in a broken line."""

    async def scenario(data: bytes) -> None:
        async with client_of_the_house() as (client, _):
            answer = await client.ask(data)
            assert answer.envelope()["code"] == Code.INVALID_PARAMS
            assert b"hush" not in answer.body and b"bytearray" not in answer.body

    for data in (
        b"hush\r\n\r\n",
        b"GET / HTTP/1.1\r\nAuthorization hush\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: hush\x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: hush\r\n\r\n",
        b"GET hush HTTP/1.1\r\nHost: a\r\n\r\n",
        raw_cases.chunked(b"hush\r\n"),
    ):
        drive(scenario(data))

"""A reload as a client asks for it and is answered; nothing that reloads is behind it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from orchd.api.door import Door
from orchd.reload_outcome import ReloadBusy, Reloaded, ReloadFailed, ReloadOutcome, Strategy
from tests.conftest import Drive
from tests.fakes.house import FakeReloads, FakeService, build_context
from tests.http1.raw import Answer, Client, one_client, settle

TOKEN = "s3cret"
FIELDS = f"Host: a\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
RELOAD = b"POST /v1/pools/chat/reload HTTP/1.1\r\n" + FIELDS
RELOADED = Reloaded("chat", "/models/b.gguf", "/models/a.gguf", Strategy.SIDE_BY_SIDE, 1234)


@dataclass(frozen=True, slots=True)
class House:
    """What is behind the door, and a client in front of it."""

    service: FakeService
    reloads: FakeReloads
    client: Client

    async def ask(self, *pieces: bytes) -> Answer:
        return await self.client.ask(RELOAD + b"".join(pieces))


@asynccontextmanager
async def house(outcome: ReloadOutcome | None = RELOADED) -> AsyncIterator[House]:
    service, reloads = FakeService(), FakeReloads(outcome)
    door = Door(build_context(service, reload=reloads), TOKEN)
    async with one_client(door) as client:
        yield House(service, reloads, client)


def with_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
TYPE = b"Content-Type: text/xml\r\n"


# -- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "new_model_ref"),
    [
        (b"\r\n", None),
        (b"Content-Type: application/json\r\n\r\n", None),
        # Where there is no body, none can be of a wrong type or in a wrong coding.
        (TYPE + b"Content-Encoding: gzip\r\n\r\n", None),
        (TYPE + with_length(b""), None),
        (with_length(b""), None),
        (CHUNKED + b"0\r\n\r\n", None),
        (CHUNKED + b"0;x=y\r\nTrailer: x\r\n\r\n", None),
        (with_length(b"{}"), None),
        (CHUNKED + b"2\r\n{}\r\n0\r\n\r\n", None),
        (with_length(b'{"new_model_ref": "/b"}'), "/b"),
        (CHUNKED + b'17\r\n{"new_model_ref": "/b"}\r\n0\r\n\r\n', "/b"),
    ],
)
def test_a_reload_is_asked_for(drive: Drive[Any], rest: bytes, new_model_ref: str | None) -> None:
    async def scenario() -> None:
        async with house() as it:
            for _ in range(2):
                assert (await it.ask(rest)).status == 200
            assert it.reloads.asked == [("chat", new_model_ref)] * 2

    drive(scenario())


@pytest.mark.parametrize(
    ("rest", "status", "told"),
    [
        (with_length(b"[]"), 400, "must be a JSON object"),
        (with_length(b" "), 400, "not JSON"),
        (with_length(b'{"new_model_ref": null}'), 400, "must be an absolute path"),
        (with_length(b'{"new_model_re": "/b"}'), 400, "did you mean 'new_model_ref'?"),
        (CHUNKED + b"1\r\n[\r\n0\r\n\r\n", 400, "not JSON"),
        (b"Content-Length: 100000000\r\n\r\n", 413, "larger than"),
        (TYPE + with_length(b"{}"), 415, "must be JSON"),
        # What it says of itself is judged before it has proven to be empty.
        (TYPE + CHUNKED + b"0\r\n\r\n", 415, "must be JSON"),
        (b"Content-Encoding: gzip\r\n" + with_length(b"{}"), 415, "no Content-Encoding"),
    ],
)
def test_what_is_no_request_for_one_is_refused(
    drive: Drive[Any], rest: bytes, status: int, told: str
) -> None:
    async def scenario() -> None:
        async with house() as it:
            answer = await it.ask(rest)
            assert answer.status == status
            assert told in str(answer.envelope()["message"])
            assert not it.reloads.asked

    drive(scenario())


@pytest.mark.parametrize("pool_id", [b"", b"Chat", b"other", b"a%2Fb", b"%ff", b"x" * 5000])
def test_an_unknown_pool(drive: Drive[Any], pool_id: bytes) -> None:
    async def scenario() -> None:
        async with house() as it:
            asked = RELOAD.replace(b"chat", pool_id) + with_length(b"[]")
            answer = await it.client.ask(asked)
            assert (answer.status, answer.envelope()["code"]) == (404, "NOT_FOUND")
            assert answer.envelope()["engine"] is None
            assert not it.reloads.asked

    drive(scenario())


def test_it_is_asked_for_by_post_and_with_the_token_alone(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as it:
            answer = await it.client.ask(RELOAD.replace(b"POST", b"GET") + b"\r\n")
            assert (answer.status, answer.headers["allow"]) == (405, "POST")
            head = await it.client.ask(RELOAD.replace(b"POST", b"HEAD") + b"\r\n")
            assert head.status == 405
            answer = await it.client.ask(RELOAD.replace(TOKEN.encode(), b"wrong") + b"\r\n")
            assert answer.status == 401
            assert not it.reloads.asked

    drive(scenario())


def test_a_daemon_that_stops_reloads_no_more(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house() as it:
            it.service.is_stopping = True
            answer = await it.ask(b"\r\n")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert answer.envelope() == {
                "code": "POOL_UNAVAILABLE",
                "message": "the daemon is stopping",
                "engine": "llamacpp",
            }
            assert not it.reloads.asked

    drive(scenario())


# -- what is answered ----------------------------------------------------------------------------


def test_a_reload_is_answered_when_it_is_over(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house(None) as it:
            asking = asyncio.create_task(it.ask(b"\r\n"))
            await settle(lambda: it.reloads.futures)
            await asyncio.sleep(0.005)
            assert not asking.done()
            it.reloads.futures[0].set_result(RELOADED)
            answer = await asking
            assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
            assert list(json.loads(answer.body).items()) == [
                ("pool_id", "chat"),
                ("model_ref", "/models/b.gguf"),
                ("previous_model_ref", "/models/a.gguf"),
                ("strategy", "side-by-side"),
                ("took_ms", 1234),
            ]

    drive(scenario())


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        (ReloadFailed("it died; the old model is back"), 503, "RELOAD_FAILED"),
        (ReloadBusy("pool chat is at one"), 409, "CONFLICT"),
    ],
)
def test_a_reload_that_came_to_nothing(
    drive: Drive[Any], outcome: ReloadFailed | ReloadBusy, status: int, code: str
) -> None:
    async def scenario() -> None:
        async with house(outcome) as it:
            answer = await it.ask(b"\r\n")
            assert answer.status == status and "retry-after" not in answer.headers
            told = {"code": code, "message": outcome.message, "engine": "llamacpp"}
            assert answer.envelope() == told

    drive(scenario())


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_bug_is_logged_and_costs_a_500(
    drive: Drive[Any], caplog: pytest.LogCaptureFixture, is_cancelled: bool
) -> None:
    async def scenario() -> None:
        async with house(None) as it:
            asking = asyncio.create_task(it.ask(b"\r\n"))
            await settle(lambda: it.reloads.futures)
            if is_cancelled:
                it.reloads.futures[0].cancel()
            else:
                it.reloads.futures[0].set_exception(RuntimeError("the secret reason"))
            answer = await asking
            assert (answer.status, answer.envelope()["code"]) == (500, "INTERNAL")
            assert b"secret" not in answer.body

    with caplog.at_level(logging.ERROR):
        drive(scenario())
    (record,) = caplog.records
    assert record.message == "failed at POST /v1/pools/chat/reload"
    assert record.exc_info is not None


def test_a_client_that_leaves_does_not_end_its_reload(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        async with house(None) as it:
            await it.client.send(RELOAD + b"\r\n")
            await settle(lambda: it.reloads.futures)
            it.client.close()
            await asyncio.sleep(0.005)
            assert not it.reloads.futures[0].done()

    drive(scenario())

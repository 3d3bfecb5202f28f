"""Streams and cancels by id; where a stream begins."""

from __future__ import annotations

import pytest

from orchd.api import tasks
from orchd.errors import ClientError, Code
from orchd.http1.messages import Head, Request, Response, StreamedResponse
from orchd.serving.task import Ended, Started, TaskEvent, Token
from tests.fakes.house import TASK_ID, FakeService, build_context

EVENTS: tuple[TaskEvent, ...] = (
    Started(0, 0),
    Token("a", 0),
    Token("b", 1),
    Ended(1, 2, 3, "stop"),
)


def request(task_id: str, *ids: bytes) -> Request:
    headers = tuple((b"last-event-id", value) for value in ids)
    return Request(Head("GET", "/", "", headers), {"task_id": task_id}, b"")


@pytest.fixture
def service() -> FakeService:
    service = FakeService()
    service.add(TASK_ID, *EVENTS)
    return service


def stream(service: FakeService, *ids: bytes) -> bytes:
    """All that the stream holds."""
    reply = tasks.stream(build_context(service), request(TASK_ID, *ids))
    assert isinstance(reply, StreamedResponse)
    return reply.source.pull(1 << 20)


def test_a_stream_and_its_headers(service: FakeService) -> None:
    reply = tasks.stream(build_context(service), request(TASK_ID.upper()))
    assert isinstance(reply, StreamedResponse)
    assert dict(reply.headers) == {
        b"content-type": b"text/event-stream",
        b"cache-control": b"no-store",
        b"x-accel-buffering": b"no",
    }
    assert reply.source.pull(1 << 20).count(b"\n\n") == len(EVENTS)
    assert reply.source.is_finished


def test_a_stream_wakes_its_reader_until_it_is_detached(service: FakeService) -> None:
    entry = service.add("open", Started(0, 0))
    reply = tasks.stream(build_context(service), request("open"))
    assert isinstance(reply, StreamedResponse)
    source, woken = reply.source, []
    source.attach(lambda: woken.append(1))
    assert source.pull(1 << 20) and not source.pull(1 << 20)
    assert source.describe_wait().startswith("waiting")
    entry.log_text("a")
    source.detach()
    entry.log_text("b")
    assert len(woken) == 1
    assert not entry.has_readers


@pytest.mark.parametrize(
    ("ids", "first"),
    [((), 0), ((b"0",), 1), ((b"2",), 3), ((b"002",), 3), ((b"0" * 18,), 1)],
)
def test_a_stream_goes_on_behind_the_last_event(
    service: FakeService, ids: tuple[bytes, ...], first: int
) -> None:
    assert stream(service, *ids).startswith(b"id: %d\n" % first)


def test_a_stream_behind_the_last_event_of_all_is_empty(service: FakeService) -> None:
    assert stream(service, b"3") == b""


@pytest.mark.parametrize(
    "ids",
    [
        (b"4",),
        (b"-1",),
        (b"+1",),
        (b"",),
        (b"1.0",),
        (b"1 ",),
        (b"0x1",),
        (b"1_0",),
        (b"a",),
        ("١".encode(),),
        (b"\xb2",),
        (b"\xff\x00",),
        (b"18446744073709551616",),
        (b"9" * 5000,),
        (b"0" * 5000,),
        (b"1", b"1"),
        (b"0", b"1"),
    ],
)
def test_any_other_id_is_refused(service: FakeService, ids: tuple[bytes, ...]) -> None:
    with pytest.raises(ClientError, match="is no event of this task") as caught:
        stream(service, *ids)
    assert caught.value.code is Code.INVALID_PARAMS
    assert len(str(caught.value)) < 200


def test_a_cancel(service: FakeService) -> None:
    reply = tasks.cancel(build_context(service), request(TASK_ID.upper()))
    assert reply == Response(204)
    assert service.cancelled == [service.entries[TASK_ID]]


@pytest.mark.parametrize("task_id", ["", "unknown", "x" * 10_000, "\ufffd", "a/b", "İ"])
def test_an_unknown_task(service: FakeService, task_id: str) -> None:
    for endpoint in (tasks.stream, tasks.cancel):
        with pytest.raises(ClientError) as caught:
            endpoint(build_context(service), request(task_id))
        assert caught.value.code is Code.NOT_FOUND
        assert len(str(caught.value)) < 200
    assert not service.cancelled

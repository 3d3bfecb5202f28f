"""Submit a task, stream it, cancel it."""

from __future__ import annotations

import re
from http import HTTPStatus

from orchd.api import wire
from orchd.api.context import Context
from orchd.api.task_body import read_task
from orchd.errors import ClientError, Code
from orchd.http1.messages import Reply, Request, Response, StreamedResponse
from orchd.serving.entry import Entry
from orchd.serving.task import Rejected

_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    # nginx would otherwise hold tokens back until its buffer is full.
    (b"x-accel-buffering", b"no"),
)
# As many digits as no log has events; int() refuses some thousands of them.
_EVENT_ID = re.compile(rb"[0-9]{1,18}")


def submit(context: Context, request: Request) -> Reply:
    """POST /v1/tasks"""
    outcome = context.service.submit(read_task(request.body))
    if isinstance(outcome, Rejected):
        return wire.rejected_response(outcome)
    return wire.admitted_response(outcome)


def stream(context: Context, request: Request) -> Reply:
    """GET /v1/tasks/{task_id}/stream"""
    entry = _find(context, request)
    cursor = _read_cursor(request, len(entry.log))
    return StreamedResponse(context.service.open_reader(entry, cursor), headers=_STREAM_HEADERS)


def cancel(context: Context, request: Request) -> Reply:
    """POST /v1/tasks/{task_id}/cancel"""
    context.service.cancel(_find(context, request))
    return Response(HTTPStatus.NO_CONTENT)


def _find(context: Context, request: Request) -> Entry:
    task_id = request.params["task_id"]
    entry = context.service.find(task_id.lower())
    if entry is None:
        raise ClientError(Code.NOT_FOUND, f"no task {task_id[:64]} is known")
    return entry


def _read_cursor(request: Request, events: int) -> int:
    """The first event to send: 0, or the one behind ``Last-Event-ID``."""
    ids = request.head.values(b"last-event-id")
    match ids:
        case []:
            return 0
        case [last] if _EVENT_ID.fullmatch(last) and int(last) < events:
            return int(last) + 1
        case _:
            shown = b", ".join(ids)[:32].decode("latin-1")
            raise ClientError(
                Code.INVALID_PARAMS, f"Last-Event-ID {shown!r} is no event of this task so far"
            )

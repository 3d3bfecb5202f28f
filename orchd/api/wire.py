"""JSON ⇄ domain, and code → HTTP status. The only place that knows either.

Source: contracts/ and the specification's section 9 (the envelope has exactly three keys).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, assert_never

import orjson

from orchd.errors import Code
from orchd.http1 import sse
from orchd.http1.messages import Headers, Response
from orchd.reload_outcome import ReloadBusy, Reloaded, ReloadFailed, ReloadOutcome
from orchd.serving.task import Admitted, Ended, Failed, Rejected, Started, TaskEvent, Token

STATUSES: Mapping[Code, HTTPStatus] = {
    Code.INVALID_PARAMS: HTTPStatus.BAD_REQUEST,
    Code.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    Code.NOT_FOUND: HTTPStatus.NOT_FOUND,
    Code.METHOD_NOT_ALLOWED: HTTPStatus.METHOD_NOT_ALLOWED,
    Code.REQUEST_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    Code.CONFLICT: HTTPStatus.CONFLICT,
    Code.LENGTH_REQUIRED: HTTPStatus.LENGTH_REQUIRED,
    Code.PAYLOAD_TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    Code.URI_TOO_LONG: HTTPStatus.REQUEST_URI_TOO_LONG,
    Code.UNSUPPORTED_MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Code.HEADERS_TOO_LARGE: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    Code.NOT_IMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    Code.HTTP_VERSION_NOT_SUPPORTED: HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    Code.ADMISSION_REJECT: HTTPStatus.TOO_MANY_REQUESTS,
    Code.POOL_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.RELOAD_FAILED: HTTPStatus.SERVICE_UNAVAILABLE,
    Code.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
"""Codes that an answer can have; the others occur in a stream's ``error`` event only."""


@dataclass(frozen=True, slots=True)
class Refusal(Response):
    """An answer that is an error; it remembers what it says."""

    code: Code = Code.INTERNAL
    engine: str | None = None


_JSON: Headers = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


def json_response(status: int, value: object, headers: Headers = ()) -> Response:
    """An answer with a JSON body; it ends a line, for those who read it in a terminal."""
    body = orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
    return Response(status, body, (*_JSON, *headers))


def error_response(
    code: Code, message: str, engine: str | None = None, headers: Headers = ()
) -> Refusal:
    """The envelope, with the status that belongs to its code."""
    reply = json_response(STATUSES[code], _envelope(code, message, engine), headers)
    return Refusal(reply.status, reply.body, reply.headers, code, engine)


def rejected_response(rejected: Rejected) -> Response:
    """A refused task; says when to come back where that is known."""
    headers: Headers = ()
    if rejected.backoff_s is not None:
        retry_after_s = max(1, math.ceil(rejected.backoff_s))
        headers = ((b"retry-after", b"%d" % retry_after_s),)
        if rejected.code is Code.ADMISSION_REJECT:
            headers += ((b"x-backoff-ms", b"%d" % math.ceil(rejected.backoff_s * 1000)),)
    return error_response(rejected.code, rejected.message, rejected.engine, headers)


def admitted_response(admitted: Admitted) -> Response:
    """202, and where the stream is."""
    body = {
        "task_id": admitted.task_id,
        "queue_position": admitted.queue_position,
        "predicted_start_ms": admitted.predicted_start_ms,
        "backoff_ms": admitted.backoff_ms,
    }
    location = f"/v1/tasks/{admitted.task_id}/stream".encode()
    return json_response(HTTPStatus.ACCEPTED, body, ((b"location", location),))


def reload_response(outcome: ReloadOutcome, engine: str) -> Response:
    """How a reload ended."""
    match outcome:
        case Reloaded():
            body = {
                "pool_id": outcome.pool_id,
                "model_ref": outcome.model_ref,
                "previous_model_ref": outcome.previous_model_ref,
                "strategy": outcome.strategy,
                "took_ms": outcome.took_ms,
            }
            return json_response(HTTPStatus.OK, body)
        case ReloadFailed(message):
            return error_response(Code.RELOAD_FAILED, message, engine)
        case ReloadBusy(message):
            return error_response(Code.CONFLICT, message, engine)
        case _:
            assert_never(outcome)


def encode_event(seq: int, event: TaskEvent) -> bytes:
    """One log event as the SSE frame that every reader of it gets."""
    if isinstance(event, Token):
        # Made once for each token there is, so without an object on the way.
        return sse.encode_event(
            seq, b"token", b'{"t":%s,"i":%d}' % (orjson.dumps(event.text), event.index)
        )
    name, data = _describe_event(event)
    return sse.encode_event(seq, name, orjson.dumps(data))


def _describe_event(event: Started | Ended | Failed) -> tuple[bytes, Mapping[str, Any]]:
    match event:
        case Started(queue_position, predicted_start_ms):
            return b"started", {
                "queue_position": queue_position,
                "predicted_start_ms": predicted_start_ms,
            }
        case Ended(tokens_in, tokens_out, decode_ms, finish_reason, is_estimated):
            ended = {
                "tokens_in": tokens_in,
                "tokens_out": tokens_out,
                "decode_ms": decode_ms,
                "finish_reason": finish_reason,
            }
            return b"end", {**ended, "estimated": True} if is_estimated else ended
        case Failed(code, message, engine):
            return b"error", _envelope(code, message, engine)
        case _:
            assert_never(event)


def _envelope(code: Code, message: str, engine: str | None) -> dict[str, str | None]:
    return {"code": code, "message": message, "engine": engine}

"""The door: what every request passes before its endpoint, and every error after it.

First the token, then the route, then what the head says of the body, all before that is read. An
endpoint's own refusals become the envelope here; anything else that it raises, now or in an answer
that comes later, is a bug, is logged with its traceback, and costs the client no more than a 500.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ParamSpec, TypeVar

from orchd.api import content, tasks, wire
from orchd.api.context import Context
from orchd.api.routes import ROUTES, Endpoint
from orchd.errors import ClientError, Code
from orchd.http1.auth import is_authorized
from orchd.http1.messages import (
    Accepted,
    Handler,
    Head,
    PendingResponse,
    Reply,
    Request,
    Response,
)
from orchd.http1.router import Match, NotAllowed, Router

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R", bound=Reply)


class Door:
    """The application that the HTTP connections talk to; it tells of heads without the token."""

    def __init__(
        self,
        context: Context,
        token: str,
        on_unauthorized: Callable[[Head], None] = lambda head: None,
    ) -> None:
        self._context = context
        self._on_unauthorized = on_unauthorized
        self._token = token.encode()
        self._router = Router(ROUTES)

    def open(self, head: Head) -> Accepted | Response:
        """Judge a head before its body is read."""
        if not is_authorized(head, self._token):
            self._on_unauthorized(head)
            return wire.error_response(
                Code.UNAUTHORIZED,
                "this needs the header Authorization: Bearer <token>, with the daemon's token",
                headers=((b"www-authenticate", b"Bearer"),),
            )
        match self._router.match(head.method, head.path):
            case Match(endpoint, params, body):
                fault = content.find_fault(head, body)
                if fault is not None:
                    return self._note(endpoint, fault)
                refuse = partial(self._refuse_body, endpoint)
                return Accepted(self._contain(endpoint), params, refuse)
            case NotAllowed(allow):
                return wire.error_response(
                    Code.METHOD_NOT_ALLOWED,
                    f"{head.method[:32]} is not for this path; {' and '.join(allow)} would be",
                    headers=((b"allow", ", ".join(allow).encode()),),
                )
            case None:
                return wire.error_response(Code.NOT_FOUND, f"there is no {head.path[:128]} here")

    def refuse(self, error: ClientError) -> Response:
        """The envelope for a request that never came as far as an endpoint."""
        return wire.error_response(error.code, str(error))

    def _refuse_body(self, endpoint: Endpoint, error: ClientError) -> Response:
        return self._note(endpoint, self.refuse(error))

    def _note(self, endpoint: Endpoint, reply: R) -> R:
        """Every task that is refused is counted here, whoever refuses it, and nowhere else."""
        if endpoint is tasks.submit and isinstance(reply, wire.Refusal):
            self._context.meters.registry.count_rejected(reply.engine, reply.code)
        return reply

    def _contain(self, endpoint: Endpoint) -> Handler:
        def run(request: Request) -> Reply:
            reply = self._guard(request.head, endpoint, self._context, request)
            if isinstance(reply, PendingResponse):
                return replace(reply, answer=partial(self._guard, request.head, reply.answer))
            return self._note(endpoint, reply)

        return run

    def _guard(
        self, head: Head, make: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R | Response:
        """What was made; never raises."""
        try:
            return make(*args, **kwargs)
        except ClientError as error:
            return self.refuse(error)
        # Nothing is cancelled here but what an answer was to come from.
        except (Exception, asyncio.CancelledError):
            log.exception("failed at %s %s", head.method, head.path[:128])
            return wire.error_response(Code.INTERNAL, "a bug in orchd; its log tells more")

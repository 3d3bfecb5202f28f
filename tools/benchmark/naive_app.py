"""The least that a relay can be with FastAPI and httpx: bytes in, bytes out; nothing is parsed,
logged or kept.

Run by uvicorn in a venv of its own, which has what this module imports.
"""

from __future__ import annotations

import os

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

_PASSED = ("authorization", "content-type")
# By default httpx lets a hundred connections be open and gives each read five seconds.
_client = httpx.AsyncClient(
    base_url=os.environ["NAIVE_ENGINE"],
    timeout=None,
    limits=httpx.Limits(max_connections=None),
)


async def relay(request: Request) -> StreamingResponse:
    headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
    asked = _client.build_request(
        "POST", request.url.path, content=await request.body(), headers=headers
    )
    answer = await _client.send(asked, stream=True)
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        media_type=answer.headers["content-type"],
        background=BackgroundTask(answer.aclose),
    )


app = FastAPI()
app.add_api_route("/{path:path}", relay, methods=["POST"], response_model=None)

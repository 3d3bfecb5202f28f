"""Ready means proven: against answerers that are no engine of ours."""

from __future__ import annotations

import asyncio

import pytest

from orchd.engines.adapter import Endpoint
from orchd.engines.llamacpp import LlamaCpp
from orchd.errors import EngineError
from orchd.runner.readiness import prove_ready
from tests.conftest import Drive
from tests.runner.pools import make_pool

MODEL = "/models/m.gguf"
EVENT = b'data: {"content":"","stop":true}\n\n'


def plain(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


OURS = plain(b'{"model_path":"/models/m.gguf","build_info":"b1"}')


async def prove(answers: dict[str, list[bytes]], load_stall_s: float = 30.0) -> str:
    """Who a server is that gives these bytes for each path, the last ones for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        left = answers[head.split()[1]]
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await reader.read()  # until the client has hung up
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = make_pool(load_stall_s=load_stall_s)
    endpoint = Endpoint("chat-0", "127.0.0.1", port, "key")
    began_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(30):
            return (await prove_ready(LlamaCpp(), pool, endpoint, MODEL, lambda: began_s)).version
    finally:
        server.close()
        await server.wait_closed()
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_it_is_ready_once_it_has_named_our_model_and_made_a_token(drive: Drive[str]) -> None:
    answers = {"/health": [plain(b"{}")], "/props": [OURS], "/completion": [plain(EVENT)]}
    assert drive(prove(answers)) == "b1"


def test_a_health_that_changes_is_progress(drive: Drive[str]) -> None:
    loading = [plain(b"%d" % n, b"503 Loading") for n in range(8)]
    answers = {
        "/health": [*loading, plain(b"{}")],
        "/props": [OURS],
        "/completion": [plain(EVENT)],
    }
    # Eight probes take longer than the stall deadline; two of them do not.
    assert drive(prove(answers, load_stall_s=0.4)) == "b1"


@pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        ("/props", plain(b"<html>"), "sent what is not JSON"),
        ("/props", plain(b"[]"), "answered /props without a model_path"),
        ("/props", plain(b'{"model_path":"/o"}'), "answers for another model, /o"),
        ("/props", plain(b"{}", b"401 No"), "answered HTTP 401 when asked who it is"),
        ("/props", b"SSH-2.0-OpenSSH\r\n\r\n", "does not answer in HTTP"),
        ("/completion", plain(b"{}", b"500 No"), "answered HTTP 500"),
        ("/completion", plain(b"{}", b"400 No"), "refused to make a first token: HTTP 400"),
        ("/completion", plain(b""), "ended its first stream without a last word"),
        ("/completion", plain(b"data: 1\n\n"), "sent an event that is no completion"),
    ],
)
def test_who_answers_otherwise_is_no_engine_of_ours(
    drive: Drive[str], path: str, answer: bytes, problem: str
) -> None:
    answers = {"/health": [plain(b"{}")], "/props": [OURS], "/completion": [plain(EVENT)]}
    with pytest.raises(EngineError, match=f"^{problem}"):
        drive(prove({**answers, path: [answer]}))


def test_a_404_for_ever_is_no_progress(drive: Drive[str]) -> None:
    with pytest.raises(EngineError, match=r"made no progress at loading for 0\.3 s"):
        drive(prove({"/health": [plain(b"", b"404 No")]}, load_stall_s=0.3))


def test_silence_after_the_load_is_not_waited_for_for_ever(drive: Drive[str]) -> None:
    answers = {"/health": [plain(b"{}")], "/props": [OURS], "/completion": [b""]}
    with pytest.raises(EngineError, match=r"loaded, but made no token in 0\.3 s"):
        drive(prove(answers, load_stall_s=0.3))

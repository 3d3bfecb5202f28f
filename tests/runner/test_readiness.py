"""Ready means proven: against answerers that are no engine of ours."""

from __future__ import annotations

import asyncio

import pytest

from orchd.engines.adapter import Endpoint
from orchd.engines.llamacpp import LlamaCpp
from orchd.errors import EngineError
from orchd.runner.load_progress import Signs
from orchd.runner.readiness import Candidate, prove_ready
from tests.conftest import Drive
from tests.runner.pools import make_pool

MODEL = "/models/m.gguf"
EVENT = b'data: {"content":"","stop":true}\n\n'


def plain(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


OURS = plain(b'{"model_path":"/models/m.gguf","build_info":"b1"}')


REFUSED = plain(b'{"error":{"message":"Invalid API Key"}}', b"401 Unauthorized")


class Watched:
    """What is seen of the engine besides its answers."""

    def __init__(
        self, signs: list[tuple[int, int]] | None = None, is_strange: bool = False
    ) -> None:
        self._signs = signs or [(0, 0)]
        self._is_strange = is_strange

    def read_signs(self, health: str) -> Signs:
        output_bytes, host_bytes = self._signs.pop(0) if len(self._signs) > 1 else self._signs[0]
        return Signs(health, output_bytes, host_bytes, 0)

    async def is_strange(self) -> bool:
        return self._is_strange


async def prove(
    answers: dict[str, list[bytes]],
    load_stall_s: float = 30.0,
    watched: Watched | None = None,
    takes_any_key: bool = False,
) -> str:
    """Who a server is that gives these bytes for each path, the last ones for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        left = answers[head.split()[1]]
        if "/health" in head or "Bearer key\r\n" in head or takes_any_key:
            writer.write(left.pop(0) if len(left) > 1 else left[0])
        else:
            writer.write(REFUSED)
        await reader.read()  # until the client has hung up
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = make_pool(load_stall_s=load_stall_s, model=MODEL)
    endpoint = Endpoint("chat-0", "127.0.0.1", port, "key")
    watched = watched or Watched()
    candidate = Candidate(LlamaCpp(), pool, endpoint, watched.read_signs, watched.is_strange)
    try:
        async with asyncio.timeout(30):
            return (await prove_ready(candidate)).version
    finally:
        server.close()
        await server.wait_closed()
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_it_is_ready_once_it_has_named_our_model_and_made_a_token(drive: Drive[str]) -> None:
    answers = {"/health": [plain(b"{}")], "/props": [OURS], "/completion": [plain(EVENT)]}
    assert drive(prove(answers)) == "b1"


LOADING = [plain(b"", b"503 Loading")] * 8
READY = {"/health": [*LOADING, plain(b"{}")], "/props": [OURS], "/completion": [plain(EVENT)]}
"""Eight probes take longer than the stall deadline below; two of them do not."""


def copy(answers: dict[str, list[bytes]]) -> dict[str, list[bytes]]:
    return {path: list(each) for path, each in answers.items()}


@pytest.mark.parametrize(
    "signs",
    [
        pytest.param([(n, 0) for n in range(9)], id="output"),
        pytest.param([(0, n << 20) for n in range(9)], id="memory"),
    ],
)
def test_whatever_grows_is_progress(drive: Drive[str], signs: list[tuple[int, int]]) -> None:
    assert drive(prove(copy(READY), load_stall_s=0.4, watched=Watched(signs))) == "b1"


def test_a_health_that_changes_its_words_only_is_no_progress(drive: Drive[str]) -> None:
    words = [plain(b"%d" % n, b"503 Loading") for n in range(20)]
    with pytest.raises(EngineError, match=r"made no progress at loading for 0\.4 s"):
        drive(prove({"/health": words}, load_stall_s=0.4))


def test_who_takes_any_key_is_refused_before_it_is_told_ours(drive: Drive[str]) -> None:
    with pytest.raises(EngineError, match="answered HTTP 200 to a key that is not its own"):
        drive(prove(copy(READY), takes_any_key=True))


def test_another_program_on_the_port_is_not_even_asked(drive: Drive[str]) -> None:
    answers = {"/health": [plain(b"{}")]}
    with pytest.raises(EngineError, match=r"does not listen on its port \d+: another program does"):
        drive(prove(answers, watched=Watched(is_strange=True)))


@pytest.mark.parametrize(
    ("path", "answer", "problem"),
    [
        ("/props", plain(b"<html>"), "sent what is not JSON"),
        ("/props", plain(b"[]"), "answered /props without a model_path"),
        ("/props", plain(b'{"model_path":"/o"}'), "answers for another model, /o"),
        (
            "/props",
            plain(b'{"model_path":"%s"}' % (b"o" * 2000)),
            "answers for another model, o{1000}$",
        ),
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

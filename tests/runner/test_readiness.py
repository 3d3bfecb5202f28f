"""Ready means proven: against answerers that are no engine of ours."""

from __future__ import annotations

import asyncio

import pytest

from orchd.config.model import PoolConfig
from orchd.engines.adapter import (
    FIRST_COMPLETION,
    Adapter,
    ChatTurn,
    Endpoint,
    EngineRequest,
    Generation,
    StreamParser,
)
from orchd.engines.llamacpp import LlamaCpp
from orchd.engines.openai_stream import ChatParser
from orchd.errors import EngineError
from orchd.runner import readiness
from orchd.runner.load_progress import Signs
from orchd.runner.readiness import Candidate, prove_ready
from tests.conftest import Drive
from tests.runner.pools import make_pool

MODEL = "/models/m.gguf"
EVENT = b'data: {"content":"","stop":true}\n\n'


def plain(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


OURS = plain(b'{"model_path":"/models/m.gguf","build_info":"b1"}')


NOT_THERE = plain(b"{}", b"404 Not Found")
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
    refusal: bytes = REFUSED,
    adapter: Adapter | None = None,
) -> str | None:
    """Who a server is that gives these bytes for each path, the last ones for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        left = answers.get(head.split()[1], [NOT_THERE])
        if "/health" in head or "Bearer key\r\n" in head or takes_any_key:
            writer.write(left.pop(0) if len(left) > 1 else left[0])
        else:
            writer.write(refusal)
        await reader.read()  # until the client has hung up
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = make_pool(load_stall_s=load_stall_s, model=MODEL)
    endpoint = Endpoint("chat-0", "127.0.0.1", port, "key")
    watched = watched or Watched()
    adapter = adapter or LlamaCpp()
    candidate = Candidate(adapter, pool, endpoint, watched.read_signs, watched.is_strange)
    try:
        async with asyncio.timeout(30):
            return (await prove_ready(candidate)).version
    finally:
        server.close()
        await server.wait_closed()
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_it_is_ready_once_it_has_named_our_model_and_made_a_token(drive: Drive[str | None]) -> None:
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
def test_whatever_grows_is_progress(drive: Drive[str | None], signs: list[tuple[int, int]]) -> None:
    assert drive(prove(copy(READY), load_stall_s=0.4, watched=Watched(signs))) == "b1"


def test_a_health_that_changes_its_words_only_is_no_progress(drive: Drive[str | None]) -> None:
    words = [plain(b"%d" % n, b"503 Loading") for n in range(20)]
    with pytest.raises(EngineError, match=r"made no progress at loading for 0\.4 s"):
        drive(prove({"/health": words}, load_stall_s=0.4))


def test_who_takes_any_key_is_refused_before_it_is_told_ours(drive: Drive[str | None]) -> None:
    with pytest.raises(EngineError, match="answered HTTP 200 to a key that is not its own"):
        drive(prove(copy(READY), takes_any_key=True))


@pytest.mark.parametrize("status", [b"404 Not Found", b"500 Oh", b"302 Found"])
def test_what_is_no_refusal_of_a_strangers_key_is_none(
    drive: Drive[str | None], status: bytes
) -> None:
    problem = f"answered HTTP {status[:3].decode()} to a key that is not its own"
    with pytest.raises(EngineError, match=problem):
        drive(prove(copy(READY), refusal=plain(b"", status)))


def test_another_program_on_the_port_is_not_even_asked(drive: Drive[str | None]) -> None:
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
    drive: Drive[str | None], path: str, answer: bytes, problem: str
) -> None:
    answers = {"/health": [plain(b"{}")], "/props": [OURS], "/completion": [plain(EVENT)]}
    with pytest.raises(EngineError, match=f"^{problem}"):
        drive(prove({**answers, path: [answer]}))


def test_a_404_for_ever_is_no_progress(drive: Drive[str | None]) -> None:
    with pytest.raises(EngineError, match=r"made no progress at loading for 0\.3 s"):
        drive(prove({"/health": [plain(b"", b"404 No")]}, load_stall_s=0.3))


def test_silence_after_the_load_is_not_waited_for_for_ever(drive: Drive[str | None]) -> None:
    answers = {"/health": [plain(b"{}")], "/props": [OURS], "/completion": [b""]}
    with pytest.raises(EngineError, match=r"loaded, but made no token in 0\.3 s"):
        drive(prove(answers, load_stall_s=0.3))


class Other(LlamaCpp):
    """An engine that needs no key, chats, and tells its version elsewhere."""

    def has_key(self, pool: PoolConfig) -> bool:
        return False

    def version_requests(self) -> tuple[EngineRequest, ...]:
        return EngineRequest("GET", "/version"), EngineRequest("GET", "/info")

    def read_version(self, body: bytes) -> str | None:
        return body.decode() or None

    def first_generations(self) -> tuple[Generation, ...]:
        return FIRST_COMPLETION, Generation(messages=(ChatTurn("user", "Hello"),), max_tokens=1)


CHAT = "/v1/chat/completions"
CHAT_EVENT = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def answers_of_other(**others: list[bytes]) -> dict[str, list[bytes]]:
    return {
        "/health": [plain(b"{}")],
        "/props": [plain(b'{"model_path":"/models/m.gguf"}')],
        CHAT: [plain(CHAT_EVENT)],
        **{f"/{path}": given for path, given in others.items()},
    }


def test_an_engine_without_a_key_need_not_refuse_one(drive: Drive[str | None]) -> None:
    told = answers_of_other(completion=[plain(EVENT)])
    assert drive(prove(told, takes_any_key=True, adapter=Other())) is None
    with pytest.raises(EngineError, match="to a key that is not its own"):
        drive(prove(told, takes_any_key=True))


@pytest.mark.parametrize("status", [b"404 Not Found", b"405 Not Allowed", b"501 Not Implemented"])
def test_the_next_way_is_tried_where_it_lacks_one(drive: Drive[str | None], status: bytes) -> None:
    told = answers_of_other(completion=[plain(b"{}", status)])
    assert drive(prove(told, adapter=Other())) is None


def test_a_way_that_fails_is_not_passed_over(drive: Drive[str | None]) -> None:
    failing = plain(b'{"error":{"message":"no"}}', b"400 Bad Request")
    with pytest.raises(EngineError, match="refused to make a first token: no"):
        drive(prove(answers_of_other(completion=[failing]), adapter=Other()))


def test_the_last_way_must_be_one(drive: Drive[str | None]) -> None:
    told = answers_of_other()
    del told[CHAT]
    with pytest.raises(EngineError, match="refused to make a first token: HTTP 404"):
        drive(prove(told, adapter=Other()))


@pytest.mark.parametrize(
    ("others", "version"),
    [
        ({"version": [plain(b"1.2")], "info": [plain(b"3")]}, "1.2"),
        ({"info": [plain(b"3")]}, "3"),
        ({"version": [plain(b"")], "info": [plain(b"3")]}, "3"),
        ({"version": [plain(b"1", b"500 Oh")], "info": [b"what?\r\n\r\n"]}, None),
    ],
)
def test_its_version_is_asked_where_the_identity_did_not_tell(
    drive: Drive[str | None], others: dict[str, list[bytes]], version: str | None
) -> None:
    assert drive(prove(answers_of_other(**others), adapter=Other())) == version


def test_a_version_that_is_not_told_in_time_is_none(
    drive: Drive[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_PROBE_TIMEOUT_S", 0.3)
    told = answers_of_other(version=[b""], info=[plain(b"3")])
    assert drive(prove(told, adapter=Other())) == "3"


@pytest.mark.parametrize(
    ("health", "told"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not answer in HTTP: illegal status line"),
        (plain(b"x" * 2_000_000), "answered with more than 1048576 bytes"),
        (plain(b"", b"302 Found"), "and answers HTTP 302"),
    ],
)
def test_why_it_is_not_healthy_is_told(drive: Drive[str | None], health: bytes, told: str) -> None:
    with pytest.raises(EngineError, match=rf"made no progress at loading for 0\.3 s.*{told}"):
        drive(prove({"/health": [health]}, load_stall_s=0.3))


def test_one_that_listens_elsewhere_is_told_its_port(drive: Drive[None]) -> None:
    async def scenario() -> None:
        endpoint = Endpoint("chat-0", "127.0.0.1", 9, "key")
        watched = Watched()
        pool = make_pool(load_stall_s=0.3, model=MODEL)
        candidate = Candidate(LlamaCpp(), pool, endpoint, watched.read_signs, watched.is_strange)
        told = r"loading for 0\.3 s, and on its port 9 does not accept connections \(.*\)$"
        with pytest.raises(EngineError, match=told):
            await prove_ready(candidate)

    drive(scenario())


def test_a_health_that_refuses_our_key_is_not_waited_for(drive: Drive[str | None]) -> None:
    for status in (b"401 Unauthorized", b"403 Forbidden"):
        told = {"/health": [plain(b"", b"503 Loading"), plain(b"", status)]}
        with pytest.raises(EngineError, match=r"^does not take its key \(HTTP 40[13]\)"):
            drive(prove(told))


def test_what_it_answers_while_it_stands_still_is_told(drive: Drive[str | None]) -> None:
    with pytest.raises(EngineError, match=r"for 0\.3 s, and answers HTTP 404$"):
        drive(prove({"/health": [plain(b"", b"404 No")]}, load_stall_s=0.3))


class Endless(Other):
    """Its streams have no last event but their end."""

    def new_parser(self, generation: Generation) -> StreamParser:
        return ChatParser()


def test_a_first_answer_that_its_bodys_end_ends(drive: Drive[str | None]) -> None:
    told = answers_of_other()
    told[CHAT] = [plain(CHAT_EVENT.removesuffix(b"data: [DONE]\n\n"))]
    assert drive(prove(copy(told), adapter=Endless())) is None
    with pytest.raises(EngineError, match="ended its first stream without a last word"):
        drive(prove(copy(told), adapter=Other()))


@pytest.mark.parametrize("behind", [b"garbage\n\n", EVENT, b'data: {"error":{}}\n\n', b""])
def test_its_last_word_counts_whatever_comes_behind_it(
    drive: Drive[str | None], behind: bytes
) -> None:
    """Also where its connection stays open, as with a task."""
    answers = {
        **copy(READY),
        "/completion": [b"HTTP/1.1 200 OK\r\n\r\n" + EVENT + b"data: " + behind],
    }
    assert drive(prove(answers)) == "b1"


def test_a_model_that_is_listed_before_it_has_loaded_is_waited_for(
    drive: Drive[str | None],
) -> None:
    told = {**copy(READY), "/health": [plain(b"{}")]}
    told["/completion"] = [plain(b"{}", b"503 Loading"), plain(b"", b"503 Loading"), plain(EVENT)]
    assert drive(prove(told)) == "b1"
    told["/completion"] = [plain(b"{}", b"503 Loading")]
    with pytest.raises(EngineError, match=r"loaded, but made no token in 0\.3 s"):
        drive(prove(told, load_stall_s=0.3))

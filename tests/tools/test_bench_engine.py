"""The benchmark's fake engine speaks as llama.cpp does, as far as orchd's own parsers can tell."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmark.fake_engine import RunningEngine, build_engine, describe_pool, run_engine
from benchmark.ground import QUICK, Ground
from benchmark.streams import Asked, EngineSide, drive
from loopback import HOST

from orchd.config.model import PoolConfig
from orchd.engines.adapter import ChatTurn, Done, EngineRequest, Generation, PromptProgress, Text
from orchd.engines.llamacpp import LlamaCpp

ADAPTER = LlamaCpp()
POOL = PoolConfig(id="bench", engine="llamacpp", model="any", ctx=100_000)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    if not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("no C compiler to build the fake engine with")
    folder = tmp_path_factory.mktemp("bench")
    return Ground(QUICK, folder / "cache", folder)


@pytest.fixture(scope="module")
def engine(ground: Ground) -> Iterator[RunningEngine]:
    with run_engine(ground, slots=3) as engine:
        yield engine


@contextlib.contextmanager
def ask(
    engine: RunningEngine, request: EngineRequest, key: str | None = None
) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(HOST, engine.door.port, timeout=20)
    headers = {"Authorization": f"Bearer {key or engine.door.key}"}
    with contextlib.closing(connection):
        connection.request(request.method, request.path, request.body, headers)
        with connection.getresponse() as answer:
            yield answer


def read(engine: RunningEngine, request: EngineRequest) -> bytes:
    with ask(engine, request) as answer:
        assert answer.status == 200
        return answer.read()


@pytest.mark.parametrize(
    "generation",
    [
        Generation(prompt="Once [text 5]", max_tokens=3),
        Generation(messages=(ChatTurn(role="user", content="Hi [text 5]"),), max_tokens=3),
    ],
    ids=["completion", "chat"],
)
def test_its_streams_are_what_the_adapter_asked_for(
    engine: RunningEngine, generation: Generation
) -> None:
    body = read(engine, ADAPTER.generation_request(POOL, generation))
    events = list(ADAPTER.new_parser(generation).feed(body))
    assert events == [
        *(PromptProgress(read_tokens, 5) for read_tokens in (0, 5)),
        *[Text("xxxxx")] * 3,
        Done("length", 5, 3, 2),
    ]


def test_openais_completions_end_as_openai_says(engine: RunningEngine) -> None:
    request = EngineRequest("POST", "/v1/completions", b'{"prompt":"[text 2]","max_tokens":2}')
    events = read(engine, request).split(b"\n\n")
    assert [b'"text":"xx"' in event for event in events] == [True, True, False, False, False]
    assert b'"finish_reason":"length"' in events[2] and b'"completion_tokens":2' in events[2]
    assert events[3:] == [b"data: [DONE]", b""]


def test_it_is_healthy_knows_its_model_and_its_key(ground: Ground, engine: RunningEngine) -> None:
    assert read(engine, ADAPTER.health_request()) == b'{"status":"ok"}'
    identity = ADAPTER.read_identity(POOL, read(engine, ADAPTER.identity_request()))
    assert identity.model == str(ground.folder / "model.gguf")
    for key in (f"{engine.door.key}x", engine.door.key[:-1]):
        with ask(engine, ADAPTER.identity_request(), key) as answer:
            assert answer.status == 401


def test_a_stream_takes_a_slot_until_its_client_has_gone(engine: RunningEngine) -> None:
    slots = ADAPTER.slots_request()
    assert slots is not None
    endless = Generation(prompt="[every 1000]", max_tokens=90_000)
    with ask(engine, ADAPTER.generation_request(POOL, endless)) as answer:
        answer.read(1)
        assert ADAPTER.read_busy_slots(200, read(engine, slots)) == 1
    while ADAPTER.read_busy_slots(200, read(engine, slots)):
        time.sleep(0.001)


def test_paced_tokens_come_alone_and_tell_when_they_left(engine: RunningEngine) -> None:
    load = drive(EngineSide(engine.door), Asked("[every 2000] [stamped]", 20), 2)
    assert load.tokens == 40
    for story in load.stories:
        gaps_ms = story.list_gaps_ms()
        assert len(gaps_ms) == 20 and min(gaps_ms) > 0
        assert story.came_ns[-1] - story.came_ns[0] >= 18 * 2_000_000


def test_unpaced_tokens_come_in_bunches(engine: RunningEngine) -> None:
    (story,) = drive(EngineSide(engine.door), Asked("Go.", 5000), 1).stories
    assert len(story.pieces) < 500


def test_it_is_built_once(ground: Ground) -> None:
    program = build_engine(ground.cache)
    built_ns = program.stat().st_mtime_ns
    assert build_engine(ground.cache) == program
    assert program.stat().st_mtime_ns == built_ns
    assert str(program) in describe_pool(ground).pool


def test_what_does_not_start_says_why(tmp_path: Path, ground: Ground) -> None:
    with pytest.raises(Exception, match="1 to 256 --parallel"), run_engine(ground, slots=300):
        pass

"""vLLM's command line, environment, requests and answers."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from orchd.config.model import PoolConfig
from orchd.engines.adapter import (
    Binary,
    ChatTurn,
    Done,
    EngineRequest,
    Generation,
    Launch,
    Refused,
    Text,
)
from orchd.engines.vllm import Vllm
from orchd.errors import EngineError

ENGINE = Vllm()
POOL = PoolConfig(id="big", engine="vllm", model="/models/llama", slots=3, ctx=2048)
GIB = 1 << 30
LAUNCH = Launch("/models/llama", "GPU-1", "127.0.0.1", 18000, "a-key", memory_share=0.5)
ON_GPU = replace(LAUNCH, reserved_bytes=8 * GIB, cache_bytes=GIB)
ON_CPU = replace(LAUNCH, device="cpu", memory_share=None, reserved_bytes=9 * GIB)


def flag(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def test_the_program_is_vllm_on_path_or_the_pools_own() -> None:
    assert ENGINE.executables(POOL) == (Binary("vllm"),)
    assert ENGINE.executables(replace(POOL, binary="/venv/bin/vllm")) == (Binary("/venv/bin/vllm"),)


def test_the_pools_keys_are_flags() -> None:
    arguments = ENGINE.arguments(replace(POOL, args=("--max-num-batched-tokens", "512")), ON_GPU)
    assert arguments[:2] == ["serve", "/models/llama"]
    assert flag(arguments, "--served-model-name") == "/models/llama"
    assert flag(arguments, "--host") == "127.0.0.1"
    assert flag(arguments, "--port") == "18000"
    assert flag(arguments, "--max-model-len") == "2048"
    assert flag(arguments, "--max-num-seqs") == "3"
    assert flag(arguments, "--allowed-origins") == "[]"
    assert flag(arguments, "--gpu-memory-utilization") == "0.4687"
    # The user's come last, for the last counts.
    assert arguments[-2:] == ["--max-num-batched-tokens", "512"]
    assert {"--no-enable-log-requests", "--disable-uvicorn-access-log"} <= set(arguments)
    assert "--disable-fastapi-docs" in arguments


def test_no_secret_is_on_the_command_line_and_nothing_is_told_to_anybody() -> None:
    assert "a-key" not in " ".join(ENGINE.arguments(POOL, ON_GPU))
    environment = ENGINE.environment(ON_GPU)
    assert environment["VLLM_API_KEY"] == "a-key"
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY"):
        assert environment[name] == "1"
    assert environment["VLLM_HOST_IP"] == "127.0.0.1"
    # Its lines are read, and shown to users.
    assert (environment["VLLM_LOGGING_COLOR"], environment["NO_COLOR"]) == ("0", "1")
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment


def test_on_the_cpu_it_gets_no_share_but_the_size_of_its_cache() -> None:
    assert "--gpu-memory-utilization" not in ENGINE.arguments(POOL, ON_CPU)
    told = ENGINE.environment(replace(ON_CPU, cache_bytes=GIB + 1))
    assert told["VLLM_CPU_KVCACHE_SPACE"] == "2"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in told
    assert ENGINE.environment(ON_CPU)["VLLM_CPU_KVCACHE_SPACE"] == "4"
    shared = ENGINE.environment(replace(ON_CPU, is_cpu_shared=True))
    assert shared["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_a_prompt_goes_to_completions_and_turns_to_chat() -> None:
    generation = Generation(prompt="Hi", max_tokens=7, sampling={"top_k": 3}, stop=("x",))
    request = ENGINE.generation_request(POOL, generation)
    assert (request.method, request.path) == ("POST", "/v1/completions")
    assert orjson.loads(request.body) == {
        "model": "/models/llama",
        "prompt": "Hi",
        "max_tokens": 7,
        "top_k": 3,
        "stop": ["x"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    chat = ENGINE.generation_request(POOL, Generation(messages=(ChatTurn("user", "Hi"),)))
    body = orjson.loads(chat.body)
    assert chat.path == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert "prompt" not in body and "stop" not in body


def test_without_a_bound_a_number_is_sent_for_a_completion_would_have_sixteen_tokens() -> None:
    body = orjson.loads(ENGINE.generation_request(POOL, Generation(prompt="Hi")).body)
    assert 2000 < body["max_tokens"] < 2048 - 2
    chat = ENGINE.generation_request(POOL, Generation(messages=(ChatTurn("user", "Hi"),)))
    assert "max_tokens" not in orjson.loads(chat.body)


def test_it_is_who_serves_the_pools_model() -> None:
    assert ENGINE.has_key(POOL)
    assert ENGINE.identity_request() == EngineRequest("GET", "/v1/models")
    told = b'{"object":"list","data":[{"id":"/models/llama","root":"/elsewhere"}]}'
    assert ENGINE.read_identity(POOL, told).model == "/models/llama"
    for body in (b'{"data":[]}', b"{}", b"[]", b'{"data":[{"id":7}]}', b"<html>"):
        with pytest.raises(EngineError):
            ENGINE.read_identity(POOL, body)


def test_its_version_is_asked_for() -> None:
    assert ENGINE.version_requests() == (EngineRequest("GET", "/version"),)
    assert ENGINE.read_version(b'{"version":"0.30.0"}') == "0.30.0"
    assert ENGINE.read_version(b'{"version":""}') is None
    assert ENGINE.read_version(b'{"version":"1\\n2"}') is None
    assert ENGINE.read_version(b'{"version":"%s"}' % (b"9" * 500)) == "9" * 100
    assert ENGINE.read_version(b"nonsense") is None


@pytest.mark.parametrize(
    ("body", "busy"),
    [
        (b'vllm:num_requests_running{engine="0",model_name="m"} 3.0\n', 3),
        (b'vllm:num_requests_running{engine="0"} 1\nvllm:num_requests_running{engine="1"} 2\n', 3),
        (b"# HELP vllm:num_requests_running Number.\nvllm:num_requests_waiting 9\n", 0),
        (b'vllm:num_requests_running{a="} 7"} 2 1700000000\n', 2),
        (b"vllm:num_requests_running 2\nvllm:num_requests_running_by_lora 9\n", 2),
        (b"", 0),
        (b"\xff\xfe", 0),
    ],
)
def test_how_many_requests_run_is_in_its_figures(body: bytes, busy: int) -> None:
    assert ENGINE.slots_request() == EngineRequest("GET", "/metrics")
    assert ENGINE.read_busy_slots(200, body) == busy


@pytest.mark.parametrize("value", [b"x", b"nan", b"inf", b"{", b"-2"])
def test_figures_that_are_none(value: bytes) -> None:
    with pytest.raises(EngineError):
        ENGINE.read_busy_slots(200, b"vllm:num_requests_running{} " + value)
    assert ENGINE.read_busy_slots(404, b"vllm:num_requests_running{} " + value) == 0


def test_its_figures_may_be_old_ones() -> None:
    doubt_s = ENGINE.doubts_busy_after_s()
    assert doubt_s is not None and 0 < doubt_s < 10


def test_its_refusals_old_and_new() -> None:
    new = b'{"error":{"message":"too long","type":"BadRequestError","param":null,"code":400}}'
    old = (
        b'{"object":"error","message":"too long","type":"BadRequestError","param":null,"code":400}'
    )
    for body in (new, old):
        assert ENGINE.read_refusal(400, body) == Refused("too long")
    with pytest.raises(EngineError, match="does not take our key"):
        ENGINE.read_refusal(401, b'{"error":"Unauthorized"}')
    with pytest.raises(EngineError, match="boom"):
        ENGINE.read_refusal(500, b'{"error":{"message":"boom","code":500}}')


def test_a_stream_ends_with_done_or_was_cut() -> None:
    piece = b'data: {"choices":[{"index":0,"text":"Hi","finish_reason":null}],"usage":null}\n\n'
    end = b'data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\n'
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":1}}\n\n'
    parser = ENGINE.new_parser(Generation(prompt="x"))
    events = list(parser.feed(piece + end + usage + b"data: [DONE]\n\n"))
    assert events == [Text("Hi"), Done("length", 4, 1, None)]
    cut = ENGINE.new_parser(Generation(prompt="x"))
    assert list(cut.feed(piece + end + usage)) == [Text("Hi")]
    assert list(cut.end()) == []

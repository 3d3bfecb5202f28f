"""The adapter for any server of OpenAI's API: its command, its questions, what it may be told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from orchd.config.model import PoolConfig
from orchd.engines.adapter import (
    Binary,
    ChatTurn,
    Generation,
    Identity,
    Launch,
    Refused,
    max_events,
)
from orchd.engines.openai import OpenAi
from orchd.engines.openai_stream import ChatParser, CompletionParser
from orchd.errors import EngineError

COMMAND = ("/opt/serve", "--host", "{host}", "--port={port}", "-m", "{model}")
POOL = PoolConfig(
    id="any",
    engine="openai",
    model="org/model",
    command=COMMAND,
    devices=("cpu",),
    env={"API_KEY": "{api_key}"},
)
LAUNCH = Launch("org/model", "cpu", "127.0.0.1", 4711, key="the-key")
PROMPT = Generation(prompt="Once")
CHAT = Generation(messages=(ChatTurn("user", "Hello"),))
ADAPTER = OpenAi()


# -- its configuration -----------------------------------------------------------------------------


def faults(**changes: Any) -> dict[str, str]:
    return {fault.path: fault.problem for fault in ADAPTER.find_faults(replace(POOL, **changes))}


def test_a_sound_pool_has_neither_fault_nor_risk() -> None:
    assert faults() == {}
    assert list(ADAPTER.find_risks(POOL)) == []


def test_the_command_is_required_and_checked() -> None:
    assert faults(command=()).keys() == {"command"}
    assert faults(command=("serve", "{port}", "{x}")).keys() == {"command[2]"}


def test_the_program_is_the_first_of_the_command() -> None:
    assert "first of command" in faults(binary="/opt/serve")["binary"]


def test_a_sha256_is_a_files() -> None:
    assert "the model org/model is a name" in faults(sha256="a" * 64)["sha256"]
    assert faults(sha256="a" * 64, model="/models/m.gguf") == {}


@pytest.mark.parametrize("devices", [("auto",), ("auto", "cpu"), ("0",), ("RTX 3090", "cpu")])
def test_on_a_gpu_the_memory_must_be_told(devices: tuple[str, ...]) -> None:
    assert 'devices = ["cpu"]' in faults(devices=devices)["vram_mib"]
    assert faults(devices=devices, vram_mib=6000) == {}


def risks(**changes: Any) -> list[str]:
    return list(ADAPTER.find_risks(replace(POOL, **changes)))


def test_a_key_in_a_command_line_is_a_risk() -> None:
    (risk,) = risks(command=(*COMMAND, "--api-key", "{api_key}"), env={})
    assert risk.startswith("command holds {api_key}, and a command line is readable by every user")
    assert 'env = { API_KEY = "{api_key}" }' in risk


def test_a_server_without_a_key_is_a_risk() -> None:
    (risk,) = risks(env={"API_KEY": "mine"})
    assert risk.startswith("its server is given no key: every user of this machine can use it")


@pytest.mark.parametrize("said", ["127.0.0.1", "--host=localhost", "[::1]"])
def test_a_server_that_is_not_told_where_to_listen_is_a_risk(said: str) -> None:
    command = ("serve", "--port", "{port}")
    (risk,) = risks(command=command)
    assert risk == "command holds no {host}: its server may listen beyond this machine"
    assert risks(command=(*command, said)) == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"args": ("--port", "{port}")}, "args[1] holds {port}"),
        ({"args": ("--key={api_key}",)}, "args[0] holds {api_key}"),
        ({"env": {"K": "{api_key}", "URL": "http://{host}:80"}}, "env.URL holds {host}"),
        ({"env": {"K": "{api_key} {model}"}}, "env.K holds {model}"),
    ],
)
def test_a_placeholder_that_is_not_filled_in_is_a_risk(changes: dict[str, Any], place: str) -> None:
    (risk,) = risks(**changes)
    expected = "which is filled in in command alone; there it stays as it is written"
    assert risk == f"{place}, {expected}"


def test_other_braces_are_no_risk() -> None:
    assert risks(args=('{"a": 1}', "{ports}"), env={"K": "{api_key}", "J": '{"port": 1}'}) == []


def test_a_flag_and_its_value_are_two_words() -> None:
    assert faults(command=("x", "--port {port}")).keys() == {"command[1]"}
    assert faults(args=("--ctx 5",)).keys() == {"args[0]"}


@pytest.mark.parametrize(
    ("command", "env", "has_key"),
    [
        (COMMAND, {}, False),
        (COMMAND, {"A": "api_key"}, False),
        ((*COMMAND, "{{api_key}}"), {}, False),
        (COMMAND, {"A": "x {api_key}"}, True),
        ((*COMMAND, "--key={api_key}"), {}, True),
        (("sh", "-c", 'serve --key "$ORCHD_ENGINE_KEY" --port {port}'), {}, True),
    ],
)
def test_whether_it_will_ask_for_the_key(
    command: tuple[str, ...], env: dict[str, str], has_key: bool
) -> None:
    assert ADAPTER.has_key(replace(POOL, command=command, env=env)) is has_key


# -- its start -------------------------------------------------------------------------------------


def test_the_command_is_filled_in_and_args_are_appended_as_they_are() -> None:
    pool = replace(POOL, args=("--json", '{"a": 1}', "{port}"))
    assert ADAPTER.executables(pool) == (Binary("/opt/serve", key="command[0]"),)
    assert ADAPTER.arguments(pool, LAUNCH) == [
        *("--host", "127.0.0.1", "--port=4711", "-m", "org/model"),
        *("--json", '{"a": 1}', "{port}"),
    ]


def test_the_model_is_that_of_the_launch() -> None:
    assert ADAPTER.arguments(POOL, replace(LAUNCH, model="other"))[-1] == "other"


def test_the_key_is_always_in_the_environment() -> None:
    assert ADAPTER.environment(LAUNCH) == {"ORCHD_ENGINE_KEY": "the-key"}
    shared = ADAPTER.environment(replace(LAUNCH, is_cpu_shared=True))
    assert shared["OMP_WAIT_POLICY"] == "passive"


# -- its questions ---------------------------------------------------------------------------------


def test_it_is_asked_for_its_models() -> None:
    assert ADAPTER.health_request().path == ADAPTER.identity_request().path == "/v1/models"
    assert ADAPTER.slots_request() is None and ADAPTER.read_busy_slots(200, b"") == 0


@pytest.mark.parametrize(
    "models",
    [
        [{"id": "org/model"}],
        [{"id": "default"}, {"id": "org/model"}],
        # vLLM's served name, a loaded adapter beside it.
        [{"id": "short", "root": "org/model"}, {"id": "lora", "root": "/lora"}],
        # Only one: whatever it calls it.
        [{"id": "/models/m.gguf"}],
        [{"id": None}],
        [{}],
        [{"id": "one"}, "no model"],
        # transformers serve lists its cache.
        [],
    ],
)
def test_its_model_is_listed_or_the_only_one(models: list[Any]) -> None:
    body = orjson.dumps({"object": "list", "data": models})
    assert ADAPTER.read_identity(POOL, body) == Identity("org/model", None)


def test_a_model_that_the_command_was_not_given_must_be_listed() -> None:
    """Else a reload to another one would be told to have succeeded."""
    pool = replace(POOL, command=("serve", "{port}", "--model", "one"), model="two")
    for listed, told in ((b'[{"id":"one"}]', "one"), (b"[]", "nothing")):
        with pytest.raises(EngineError, match=f"does not list two in /v1/models, but {told};"):
            ADAPTER.read_identity(pool, b'{"data":%s}' % listed)
    assert ADAPTER.read_identity(pool, b'{"data":[{"id":"two"}]}').model == "two"


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ([{"id": "a"}, {"id": "b"}], "but a, b; write the pool's model as the server names it"),
        ([{"id": "org"}, {"id": 7}], "but org, 7;"),
        ([{"id": "x" * 999}] * 99, f"but {', '.join(['x' * 100] * 5)};"),
    ],
)
def test_other_models_are_told_by_name(models: list[Any], told: str) -> None:
    with pytest.raises(EngineError) as caught:
        ADAPTER.read_identity(POOL, orjson.dumps({"data": models}))
    message = str(caught.value)
    assert message.startswith("does not list org/model in /v1/models, but ") and told in message


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"data":{}}', b'{"data":1}'])
def test_who_lists_no_models_is_no_such_server(body: bytes) -> None:
    with pytest.raises(EngineError):
        ADAPTER.read_identity(POOL, body)


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (b'{"version":"0.10.1"}', "0.10.1"),  # vLLM, Ollama
        (b'{"build_info":"b11434-x","model_path":"/m"}', "b11434-x"),  # llama.cpp
        (b'{"model_id":"org/m","version":"3.3.5","sha":null}', "3.3.5"),  # TGI
        (b'{"model_path":"org/m","internal_states":[{}],"version":"0.5.2"}', "0.5.2"),  # SGLang
        (b'{"version":"%s"}' % (b"x" * 999), "x" * 100),
        (b'{"version":""}', None),
        (b'{"version":"a\\nb"}', None),
        (b'{"version":7}', None),
        (b'{"detail":"Not Found"}', None),
        (b"[]", None),
        (b"<html>", None),
        (b"", None),
    ],
)
def test_its_version_is_read_where_it_tells(body: bytes, version: str | None) -> None:
    assert ADAPTER.read_version(body) == version


def test_where_versions_are_told() -> None:
    assert {request.path for request in ADAPTER.version_requests()} == {
        *("/version", "/props", "/info", "/get_server_info", "/api/version")
    }


# -- its tasks -------------------------------------------------------------------------------------


def test_a_prompt_goes_to_completions_with_all_that_was_asked() -> None:
    generation = Generation(
        prompt="Once", max_tokens=7, sampling={"seed": 1, "top_k": 5}, stop=("\n", "END")
    )
    request = ADAPTER.generation_request(POOL, generation)
    assert (request.method, request.path) == ("POST", "/v1/completions")
    assert orjson.loads(request.body) == {
        "model": "org/model",
        "prompt": "Once",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 7,
        "seed": 1,
        "top_k": 5,
        "stop": ["\n", "END"],
    }


def test_turns_go_to_chat_completions() -> None:
    request = ADAPTER.generation_request(POOL, replace(CHAT, max_tokens=7, stop=("END",)))
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert orjson.loads(request.body) == {
        "model": "org/model",
        "messages": [{"role": "user", "content": "Hello"}],
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 7,
    }


def test_a_chat_without_a_bound_has_all_that_is_left_of_the_context() -> None:
    assert "max_tokens" not in orjson.loads(ADAPTER.generation_request(POOL, CHAT).body)


@pytest.mark.parametrize(
    ("prompt", "bound"),
    [
        ("", 1000 - 8),
        ("x" * 242, 1000 - 242 - 8),
        ("é" * 121, 1000 - 242 - 8),
        ("x" * 243, 1000),
        ("é" * 122, 1000),
        ("x" * 100_000, 1000),
    ],
)
def test_a_completion_without_a_bound_has_what_every_server_takes(prompt: str, bound: int) -> None:
    """None of them may take it for OpenAI's default of 16 tokens."""
    generation = Generation(prompt=prompt)
    pool = replace(POOL, ctx=1000)
    body = orjson.loads(ADAPTER.generation_request(pool, generation).body)
    assert (body["prompt"], body["max_tokens"]) == (prompt, bound)
    assert bound <= max_events(pool, generation)


def test_what_a_task_is_answered_is_understood() -> None:
    assert isinstance(ADAPTER.new_parser(PROMPT), CompletionParser)
    assert isinstance(ADAPTER.new_parser(CHAT), ChatParser)
    assert ADAPTER.read_refusal(400, b'{"object":"error","message":"no"}') == Refused("no")


def test_the_first_token_is_asked_for_in_both_ways() -> None:
    completion, chat = ADAPTER.first_generations()
    assert completion.prompt and completion.max_tokens == 1
    assert chat.messages and chat.max_tokens == 1

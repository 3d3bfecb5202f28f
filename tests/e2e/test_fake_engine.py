"""The fake engine speaks as the real ones do: what the fault tests prove rests on that."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes.daemon import TIMEOUT_S
from tests.fakes.engines import install_engine, write_heavy_model, write_model
from tests.fakes.llama_faults import read_faults

KEY = "a-key-for-tests-only"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with run_engine(tmp_path_factory.mktemp("engine")) as (_, client):
        yield client


@contextlib.contextmanager
def run_engine(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """One that has loaded."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address = ("--host", "127.0.0.1", "--port", str(port))
    process = subprocess.Popen(
        [str(install_engine(folder)), "-m", str(write_model(folder)), *address, "-np", "2"],
        env={"LLAMA_API_KEY": KEY},
        stderr=subprocess.DEVNULL,
    )
    # It closes after every answer, whatever it was asked, as llama.cpp does after a stream.
    headers = {"Authorization": f"Bearer {KEY}", "Connection": "close"}
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:
            wait_until_healthy(client)
            yield process, client
    finally:
        process.kill()
        process.wait()


def wait_until_healthy(client: httpx.Client) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        with contextlib.suppress(httpx.TransportError):
            if client.get("/health").status_code == 200:
                return
        assert time.monotonic() < deadline_s, "it never became healthy"
        time.sleep(0.02)


def stream(engine: httpx.Client, path: str, **body: object) -> list[Any]:
    """The data of each event; ``[DONE]`` as it stands."""
    answer = engine.post(path, json={"stream": True, **body})
    assert answer.headers["Content-Type"] == "text/event-stream"
    *events, rest = answer.text.split("\n\n")
    assert rest == "" and all(event.startswith("data: ") for event in events)
    data = [event.removeprefix("data: ") for event in events]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


def test_what_it_tells_of_itself(engine: httpx.Client) -> None:
    assert engine.get("/health").json() == {"status": "ok"}
    props = engine.get("/props").json()
    assert props["total_slots"] == 2 and props["build_info"]
    assert engine.get("/v1/models").json()["data"][0]["id"] == props["model_path"]
    assert [slot["is_processing"] for slot in engine.get("/slots").json()] == [False, False]
    stranger = {"Authorization": "Bearer another"}
    assert engine.get("/health", headers=stranger).status_code == 200
    for path in ("/props", "/slots", "/v1/models"):
        assert engine.get(path, headers=stranger).status_code == 401


def test_a_completion(engine: httpx.Client) -> None:
    *tokens, last = stream(engine, "/completion", prompt="[tokens 3]", n_predict=9)
    assert [(t["content"], t["stop"]) for t in tokens] == [(f"t{n} ", False) for n in range(3)]
    assert (last["stop"], last["stop_type"], last["tokens_predicted"]) == (True, "eos", 3)


def test_a_text_completion_of_openai(engine: httpx.Client) -> None:
    *tokens, last, done = stream(engine, "/v1/completions", prompt="[tokens 3]", max_tokens=2)
    assert [t["choices"][0]["text"] for t in tokens] == ["t0 ", "t1 "]
    assert [t["choices"][0]["finish_reason"] for t in (*tokens, last)] == [None, None, "length"]
    assert last["usage"]["completion_tokens"] == 2
    assert done == "[DONE]"


def test_a_chat_completion_of_openai(engine: httpx.Client) -> None:
    messages = [{"role": "user", "content": "[tokens 2]"}]
    events = stream(engine, "/v1/chat/completions", messages=messages)
    *tokens, finish, usage, done = events
    assert "".join(t["choices"][0]["delta"]["content"] for t in tokens) == "t0 t1 "
    assert finish["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 2)
    assert done == "[DONE]"


def test_a_signed_token_has_its_models_name(engine: httpx.Client) -> None:
    *tokens, _ = stream(engine, "/completion", prompt="[tokens 2] [signed]")
    assert [token["content"] for token in tokens] == ["model:t0 ", "model:t1 "]


def test_a_models_own_faults_go_before_those_of_the_environment(tmp_path: Path) -> None:
    model = write_heavy_model(tmp_path / "bad.gguf", 1, load_s=3, key="another")
    environ = {"FAKE_LOAD_S": "600", "FAKE_LOAD_LINES": "7"}
    faults = read_faults(environ, str(model))
    assert (faults.load_s, faults.load_lines, faults.key) == (3.0, 7, "another")
    assert read_faults(environ, str(write_model(tmp_path))).load_s == 600


def test_deafened_it_accepts_and_answers_nothing(tmp_path: Path) -> None:
    with run_engine(tmp_path) as (process, client):
        process.send_signal(signal.SIGUSR2)
        deadline_s = time.monotonic() + TIMEOUT_S
        with pytest.raises(httpx.ReadTimeout):
            while time.monotonic() < deadline_s:
                client.get("/health", timeout=httpx.Timeout(TIMEOUT_S, read=0.5))
        assert process.poll() is None
        process.send_signal(signal.SIGUSR1)
        assert process.wait(TIMEOUT_S) == -signal.SIGABRT

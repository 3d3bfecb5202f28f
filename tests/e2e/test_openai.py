"""A pool of any server of OpenAI's API, started by its command: the daemon on a stand-in of one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import openai_server
from tests.fakes.daemon import RunningDaemon, run_daemon

SERVER = [sys.executable, "-I", "-S", openai_server.__file__]
ADDRESS = ["--host", "{host}", "--port", "{port}"]
KEYED = 'env = { FAKE_KEY = "{api_key}" }'


def write_config(folder: Path, *flags: str, pool: str = KEYED, model: str = "org/model") -> Path:
    """One pool; the server's flags are those that say what it is like."""
    config = folder / "orchd.toml"
    command = json.dumps([*SERVER, *ADDRESS, "--model", "{model}", *flags])
    config.write_text(f"""
[server]
listen = "127.0.0.1:0"
[[pools]]
id = "any"
engine = "openai"
model = "{model}"
command = {command}
devices = ["cpu"]
slots = 8
{pool}
""")
    return config


@contextlib.contextmanager
def serving(folder: Path, *flags: str, **more: str) -> Iterator[RunningDaemon]:
    with run_daemon(write_config(folder, *flags, **more)) as daemon:
        daemon.hear("became ready")
        yield daemon
        assert "Traceback" not in daemon.log


def run(daemon: RunningDaemon, prompt: str, **more: Any) -> tuple[str, dict[str, Any]]:
    """The text of a task, and its last event."""
    return read(daemon, submit(daemon, {"prompt": prompt, **more}))


def submit(daemon: RunningDaemon, body: dict[str, Any]) -> str:
    answer = daemon.ask("POST", "/v1/tasks", body)
    assert answer.status == 202, answer.read()
    return str(json.load(answer)["task_id"])


def read(daemon: RunningDaemon, task_id: str) -> tuple[str, dict[str, Any]]:
    stream = daemon.ask("GET", f"/v1/tasks/{task_id}/stream").read().decode()
    events = [json.loads(data) for data in re.findall(r"^data: (.*)$", stream, re.MULTILINE)]
    return "".join(event["t"] for event in events if "t" in event), events[-1]


def chat(prompt: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}]}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with serving(tmp_path_factory.mktemp("openai"), "--loads-s", "0.3") as daemon:
        yield daemon


def test_a_prompt_is_answered(daemon: RunningDaemon) -> None:
    text, end = run(daemon, "[tokens 3]")
    assert text == "t0 t1 t2 "
    assert end == {
        "tokens_in": 5,
        "tokens_out": 3,
        "decode_ms": end["decode_ms"],
        "finish_reason": "stop",
    }
    assert run(daemon, "[tokens 3]", max_tokens=2)[1]["finish_reason"] == "length"


def test_a_chat_is_answered(daemon: RunningDaemon) -> None:
    text, end = read(daemon, submit(daemon, chat("[tokens 3]")))
    assert (text, end["tokens_out"], end["finish_reason"]) == ("t0 t1 t2 ", 3, "stop")
    assert "estimated" not in end


def test_a_character_in_two_halves_is_whole(daemon: RunningDaemon) -> None:
    assert run(daemon, "[tokens 1] [halves]")[0] == "t0 \N{LLAMA}"
    assert read(daemon, submit(daemon, chat("[tokens 1] [halves]")))[0] == "t0 \N{LLAMA}"


def test_a_cancelled_task_stops_the_server(daemon: RunningDaemon) -> None:
    task_id = submit(daemon, {"prompt": "[hang 2]"})
    stream = daemon.ask("GET", f"/v1/tasks/{task_id}/stream")
    assert any(b'"t":"t1 "' in line for line in stream)
    assert daemon.ask("POST", f"/v1/tasks/{task_id}/cancel").status == 204
    assert b"CANCELLED" in stream.read()
    daemon.hear("cancelled: the client is gone")


def test_a_refusal_is_the_tasks_fault_in_the_servers_words(daemon: RunningDaemon) -> None:
    message = "maximum context length is 512 tokens"
    expected = {"code": "INVALID_PARAMS", "message": message, "engine": "openai"}
    assert run(daemon, "[refuse]") == ("", expected)


@pytest.mark.parametrize(
    ("wish", "code", "message"),
    [
        ("[error 2]", "WORKER_RESET", "replica any-0 gave up: asked to error"),
        ("[blame 2]", "INVALID_PARAMS", "asked to blame"),
        ("[odd 2]", "WORKER_RESET", "replica any-0 gave up: asked to ?"),
        ("[abort 2]", "WORKER_RESET", "replica any-0 broke off its answer (abort)"),
        ("[cut 2]", "WORKER_RESET", "replica any-0 ended its answer without a reason"),
        ("[break 2]", "WORKER_RESET", "replica any-0 ended its stream without its last event"),
    ],
)
def test_what_ends_in_mid_stream_is_no_success(
    daemon: RunningDaemon, wish: str, code: str, message: str
) -> None:
    for body in ({"prompt": wish}, chat(wish)):
        text, end = read(daemon, submit(daemon, body))
        assert text == "t0 t1 "
        assert end == {"code": code, "message": message, "engine": "openai"}


def test_a_page_instead_of_a_stream_is_the_servers_fault(daemon: RunningDaemon) -> None:
    text, end = run(daemon, "[page]")
    assert (text, end["code"]) == ("", "WORKER_RESET")
    assert "answered with something else than an event stream" in end["message"]


def test_what_it_says_of_itself_is_on_health(daemon: RunningDaemon) -> None:
    (pool,) = json.load(daemon.ask("GET", "/health"))["pools"]
    assert (pool["engine"], pool["engine_version"], pool["model"]) == (
        *("openai", "1.2.fake", "org/model"),
    )


def test_its_key_is_in_no_command_line_and_its_own_alone(daemon: RunningDaemon) -> None:
    (pool,) = json.load(daemon.ask("GET", "/health"))["pools"]
    process = Path(f"/proc/{pool['replicas'][0]['pid']}")
    environ = dict(
        entry.split("=", 1)
        for entry in process.joinpath("environ").read_text().split("\0")
        if entry
    )
    key = environ["FAKE_KEY"]
    assert len(key) >= 32 and environ["ORCHD_ENGINE_KEY"] == key
    assert key not in process.joinpath("cmdline").read_text()
    assert key not in daemon.log and "at risk" not in daemon.log


# -- servers of other kinds ------------------------------------------------------------------------


def test_without_counts_they_are_ours_and_the_end_says_so(tmp_path: Path) -> None:
    with serving(tmp_path, "--usage", "none", "--never-done") as daemon:
        for body in ({"prompt": "[tokens 3]"}, chat("[tokens 3]")):
            text, end = read(daemon, submit(daemon, body))
            assert text == "t0 t1 t2 "
            assert (end["tokens_in"], end["tokens_out"], end["estimated"]) == (0, 3, True)


def test_a_server_that_lists_what_it_has_not_loaded_is_waited_for(tmp_path: Path) -> None:
    with serving(tmp_path, "--loads-s", "0.5", "--lists-at-once") as daemon:
        assert run(daemon, "[tokens 1]")[0] == "t0 "
        assert "lost an engine" not in daemon.log


def test_a_reload_to_a_model_that_the_server_has_not_leaves_the_old_one(tmp_path: Path) -> None:
    with serving(tmp_path, "--lists", "org/model", "--lists", "org/small") as daemon:
        reload = "/v1/pools/any/reload"
        assert daemon.ask("POST", reload, {"new_model_ref": "org/small"}).status == 200
        answer = daemon.ask("POST", reload, {"new_model_ref": "org/other"})
        assert answer.status == 503
        assert "does not list org/other in /v1/models" in json.load(answer)["message"]
        assert run(daemon, "[tokens 1]")[0] == "t0 "
        assert '"model":"org/small"' in daemon.ask("GET", "/health").read().decode()


def test_a_server_that_only_chats_becomes_ready_by_a_chat(tmp_path: Path) -> None:
    flags = ("--lacks", openai_server.COMPLETION, "--usage", "each", "--errors", "tgi")
    with serving(tmp_path, *flags, "--version-at", "/info") as daemon:
        text, end = read(daemon, submit(daemon, chat("[tokens 3]")))
        assert (text, end["tokens_in"], end["tokens_out"]) == ("t0 t1 t2 ", 5, 3)
        expected = {"code": "INVALID_PARAMS", "message": "Not Found", "engine": "openai"}
        assert run(daemon, "[tokens 3]") == ("", expected)
        assert "1.2.fake" in daemon.ask("GET", "/health").read().decode()


@pytest.mark.parametrize("shape", ["flat", "fastapi"])
def test_errors_in_other_shapes(tmp_path: Path, shape: str) -> None:
    with serving(tmp_path, "--errors", shape) as daemon:
        assert run(daemon, "[refuse]")[1]["message"] == "maximum context length is 512 tokens"
        assert run(daemon, "[error 1]")[1]["message"] == "replica any-0 gave up: asked to error"
        assert run(daemon, "[blame 1]")[1]["code"] == "INVALID_PARAMS"


def test_a_server_without_a_key_is_warned_of_and_serves(tmp_path: Path) -> None:
    with serving(tmp_path, pool="") as daemon:
        assert "is at risk pool=any: its server is given no key" in daemon.log
        assert run(daemon, "[tokens 1]")[0] == "t0 "


def test_a_key_in_the_command_works_and_is_warned_of(tmp_path: Path) -> None:
    with serving(tmp_path, "--api-key", "{api_key}", pool="") as daemon:
        assert "is at risk pool=any: command holds {api_key}, and a command line" in daemon.log
        assert daemon.log.count("is at risk") == 1


@pytest.mark.parametrize(
    ("flags", "pool", "problem"),
    [
        # It was given a key and asks for none; it asks for a key of the user's.
        ((), 'env = { X = "{api_key}" }', "answered HTTP 200 to a key that is not its own"),
        (("--api-key", "mine"), "", "does not take its key (HTTP 401), or is another's server"),
        (
            ("--lists", "a", "--lists", "b"),
            KEYED,
            "does not list org/model in /v1/models, but a, b",
        ),
        (
            ("--lacks", "/v1/models"),
            f"{KEYED}\nload_stall_s = 1",
            "made no progress at loading for 1 s, and answers HTTP 404",
        ),
        (
            ("--never-streams",),
            KEYED,
            "answered with something else than an event stream: it may not know how to stream",
        ),
        (
            ("--never-listens",),
            KEYED,
            "unrecognized arguments: --never-listens",
        ),
    ],
)
def test_who_is_not_ours_or_fails_does_not_become_ready(
    tmp_path: Path, flags: tuple[str, ...], pool: str, problem: str
) -> None:
    with run_daemon(write_config(tmp_path, *flags, pool=pool)) as daemon:
        assert problem in daemon.hear("lost an engine")
        assert problem in daemon.ask("GET", "/health").read().decode()
        assert "became ready" not in daemon.log


def test_a_model_under_another_name_is_taken_where_it_is_the_only_one(tmp_path: Path) -> None:
    with serving(tmp_path, "--lists", "/models/one.gguf") as daemon:
        assert run(daemon, "[tokens 1]")[0] == "t0 "


def test_two_servers_by_a_script_beside_the_configuration(tmp_path: Path) -> None:
    script = tmp_path / "serve.sh"
    script.write_text(f'#!/bin/sh\nFAKE_KEY="$ORCHD_ENGINE_KEY" exec {" ".join(SERVER)} "$@"\n')
    script.chmod(0o755)
    config = write_config(tmp_path, pool='env = { SAID = "{api_key}" }\nreplicas = 2')
    command = json.dumps(["./serve.sh", "--port", "{port}", "--lists", "{{{model}}}"])
    config.write_text(
        re.sub(r"^command = .*$", f"command = {command}", config.read_text(), flags=re.M)
    )
    with run_daemon(config) as daemon:
        daemon.hear("became ready pool=any replica=any-0")
        daemon.hear("became ready pool=any replica=any-1")
        (pool,) = json.load(daemon.ask("GET", "/health"))["pools"]
        for replica in pool["replicas"]:
            line = Path(f"/proc/{replica['pid']}/cmdline").read_text()
            assert "{org/model}" in line.split("\0")
            environ = os.fsencode(Path(f"/proc/{replica['pid']}/environ").read_text())
            assert b"OMP_WAIT_POLICY=passive" in environ
        assert "is at risk pool=any: command holds no {host}" in daemon.log

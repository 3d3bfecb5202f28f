"""``orchd ask``: in one process before canned answers, and the real command on a real daemon."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from orchd.ask import ask
from orchd.client import RefusedError
from orchd.errors import HostError, OrchdError
from tests.fakes.canned import Canned, answering, reply, stream
from tests.fakes.daemon import TIMEOUT_S, RunningDaemon, environment, run_daemon, write_config
from tests.fakes.terminal import Terminal, in_terminal

ADMITTED = reply(202, '{"task_id": "x", "queue_position": 0}')
STARTED = 'id: 0\nevent: started\ndata: {"queue_position":0}'
HELLO = 'id: 1\nevent: token\ndata: {"t":"Hello","i":0}'
END = 'id: 2\nevent: end\ndata: {"tokens_in":1}'
WORDS = {"prompt": "hi"}


def fail(*answers: bytes, out: io.StringIO | None = None) -> tuple[OrchdError, Canned]:
    """The fault in which a question ends that is answered so."""
    with answering(answers) as canned, pytest.raises(OrchdError) as caught:
        ask(canned.daemon, WORDS, io.StringIO() if out is None else out)
    return caught.value, canned


def path_of(request: str) -> str:
    return request.partition(" HTTP")[0]


# -- before canned answers ---------------------------------------------------------------------


def test_the_text_is_written_and_its_line_ended() -> None:
    out = io.StringIO()
    with answering([ADMITTED, stream(STARTED, ": waiting", HELLO, END)]) as canned:
        ask(canned.daemon, WORDS, out)
    assert out.getvalue() == "Hello\n"
    submitted, streamed = canned.requests
    task_id = json.loads(submitted.partition("\r\n\r\n")[2])["task_id"]
    assert path_of(streamed) == f"GET /v1/tasks/{task_id}/stream"


def test_an_id_of_ones_own_is_kept() -> None:
    with answering([ADMITTED, stream(END)]) as canned:
        ask(canned.daemon, {**WORDS, "task_id": "mine"}, io.StringIO())
    assert path_of(canned.requests[1]) == "GET /v1/tasks/mine/stream"


def test_a_terminal_does_not_obey_what_a_model_writes() -> None:
    hostile = 'event: token\ndata: {"t":"a\\u001b[2Jb\\tc\\nd","i":0}'
    out, terminal = io.StringIO(), Terminal()
    for each in (out, terminal):
        with answering([ADMITTED, stream(hostile, END)]) as canned:
            ask(canned.daemon, WORDS, each)
    assert out.getvalue() == "a\x1b[2Jb\tc\nd\n", "a file gets what was written"
    assert terminal.getvalue() == "a\\x1b[2Jb\tc\nd\n"


def test_an_error_of_the_task_is_told_behind_what_there_is_of_its_text() -> None:
    out = io.StringIO()
    broken = 'event: error\ndata: {"code":"WORKER_RESET","message":"died\\n","engine":"llamacpp"}'
    error, _ = fail(ADMITTED, stream(HELLO, broken), out=out)
    assert isinstance(error, RefusedError)
    assert (str(error), out.getvalue()) == ("WORKER_RESET: died\\n", "Hello\n")


@pytest.mark.parametrize(
    "answer", [stream(HELLO, is_whole=False), stream(HELLO), stream(HELLO, is_whole=False) + b"f"]
)
def test_a_daemon_that_dies_in_the_middle_is_told_of(answer: bytes) -> None:
    out = io.StringIO()
    error, _ = fail(ADMITTED, answer, out=out)
    assert isinstance(error, HostError)
    assert str(error).startswith("lost the daemon before the task's end")
    assert "orchd status shows whether one runs" in str(error)
    assert out.getvalue() == "Hello\n"


@pytest.mark.parametrize(
    "events", ["event: token\ndata: {", "event: token\ndata: 1", "event: end\ndata: \xff["]
)
def test_events_that_are_none_of_ours_are_told_of(events: str) -> None:
    error, _ = fail(ADMITTED, stream(events).replace("ÿ".encode(), b"\xff\xff"))
    assert "is no orchd (its events are of another kind)" in str(error)


def test_a_stream_that_is_refused_says_why() -> None:
    gone = '{"code": "NOT_FOUND", "message": "no such task", "engine": null}'
    error, _ = fail(ADMITTED, reply(404, gone))
    assert str(error) == "NOT_FOUND: no such task"


class Broken(io.StringIO):
    """Takes one piece of text, and then raises."""

    def __init__(self, fault: BaseException) -> None:
        super().__init__()
        self._fault = fault

    def flush(self) -> None:
        raise self._fault


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), BrokenPipeError(), OSError(28, "full")])
def test_a_task_that_nobody_reads_on_is_cancelled(fault: BaseException) -> None:
    with (
        answering([ADMITTED, stream(HELLO, HELLO, is_whole=False), b""]) as canned,
        pytest.raises(type(fault)),
    ):
        ask(canned.daemon, WORDS, Broken(fault))
    stream_path, cancel_path = map(path_of, canned.requests[1:])
    assert cancel_path == stream_path.replace("GET", "POST").replace("/stream", "/cancel")


# -- the real command --------------------------------------------------------------------------


def run_ask(
    config: Path, *words: str, stdin: bytes | None = None, **more: str
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "orchd", "ask", "--config", str(config), *words],
        env=environment(config.parent, **more),
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
    )


def start_ready(daemon: RunningDaemon) -> None:
    daemon.hear("became ready")


def write_config_at(folder: Path, daemon: RunningDaemon) -> Path:
    """A configuration that a client finds the daemon by: it listens on a port of its choice."""
    config = folder / "client.toml"
    listen = f"127.0.0.1:{daemon.port}"
    config.write_text(write_config(folder).read_text().replace("127.0.0.1:0", listen))
    return config


def test_what_is_asked_and_what_comes_of_it(tmp_path: Path) -> None:
    """One daemon for all of it: each of these takes its time to start."""
    with run_daemon(write_config(tmp_path)) as daemon:
        start_ready(daemon)
        config = write_config_at(tmp_path, daemon)

        done = run_ask(config, "--max-tokens", "2", "[tokens 9]")
        assert (done.returncode, done.stdout, done.stderr) == (0, b"t0 t1 \n", b"")
        done = run_ask(config, "-", stdin="[tokens 2] é".encode())
        assert (done.returncode, done.stdout) == (0, b"t0 t1 \n")
        done = run_ask(config, stdin=b"[tokens 1]")
        assert (done.returncode, done.stdout) == (0, b"t0 \n")

        done = run_ask(config, "--pool", "chta", "hi")
        assert (done.returncode, done.stdout) == (1, b"")
        assert re.fullmatch(rb"orchd: INVALID_PARAMS: .*there are: chat .*\n", done.stderr)
        done = run_ask(config, "hi", ORCHD_API_TOKEN="another")
        assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
        assert b"does not take the token of ORCHD_API_TOKEN" in done.stderr

        (pool,) = json.load(daemon.ask("GET", "/health"))["pools"]
        assert pool["tokens_streamed"] == {"chat-0": 2 + 2 + 1}

        with Path("/dev/full").open("wb") as full:
            ran = subprocess.run(
                [sys.executable, "-m", "orchd", "ask", "--config", str(config), "[tokens 1]"],
                env=environment(tmp_path),
                stdout=full,
                stderr=subprocess.PIPE,
                timeout=TIMEOUT_S,
            )
        expected = b"orchd: cannot write to stdout: No space left on device\n"
        assert (ran.returncode, ran.stderr) == (1, expected)


def test_a_model_that_writes_more_than_a_terminal_can_show(tmp_path: Path) -> None:
    with answering(
        [ADMITTED, stream('event: token\ndata: {"t":"caf\u00e9 \\ud800"}', END)]
    ) as canned:
        config = tmp_path / "orchd.toml"
        text = write_config(tmp_path).read_text()
        config.write_text(text.replace("127.0.0.1:0", str(canned.listen)))
        done = run_ask(config, "hi", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\\xe9 \\ud800\n", b"")


@pytest.mark.parametrize("words", [("",), ("-",), ()])
def test_an_empty_prompt_is_not_asked(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run_ask(write_config(tmp_path), *words, stdin=b"")
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
    assert b"is empty; write one, or - to have it read from stdin" in done.stderr


def test_a_prompt_that_is_no_text_is_not_asked(tmp_path: Path) -> None:
    done = run_ask(write_config(tmp_path), os.fsdecode(b"caf\xe9"))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"orchd: the prompt is not UTF-8 (")


def test_who_forgot_the_prompt_is_told_what_is_waited_for(tmp_path: Path) -> None:
    words = ["ask", "--config", str(write_config(tmp_path))]
    with in_terminal(words, environment(tmp_path)) as asking:
        asking.await_text("Type the prompt; Ctrl-D on a line of its own ends it.")
        assert asking.press_ctrl_c() == 130
        assert "Traceback" not in asking.shown


def test_ctrl_c_in_a_terminal_cancels_the_task(tmp_path: Path) -> None:
    """A batch task, which no clock would cancel for want of a reader."""
    with run_daemon(write_config(tmp_path)) as daemon:
        start_ready(daemon)
        config = write_config_at(tmp_path, daemon)
        words = ["ask", "--config", str(config), "--priority", "batch", "[tokens 1] [hang 1]"]
        with in_terminal(words, environment(tmp_path)) as asking:
            asking.await_text("t0")
            assert asking.press_ctrl_c() == 130
            assert "Traceback" not in asking.shown
        assert "outcome=CANCELLED" in daemon.hear("ended a task")

"""Engines that hang: what their clients are told, and who comes back."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, running_daemon
from tests.fakes.daemon import RunningDaemon, read_events, run_daemon, write_config

STALL_S = 2
"""Long beside a pause of the machine, short beside the tasks below."""
SENTENCE = "The quick brown fox jumps over the lazy dog. "
CONFIG = f"decode_stall_s = {STALL_S}"
STALLED = {
    "code": "DECODE_TIMEOUT",
    "message": f"replica chat-0 made no progress for {STALL_S} s",
    "engine": "llamacpp",
}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    with run_daemon(write_config(tmp_path, slots=3, pool=CONFIG)) as daemon:
        daemon.hear("became ready")
        yield daemon
        assert "Traceback" not in daemon.log


def show(daemon: RunningDaemon) -> dict[str, Any]:
    """The replica on /health."""
    return dict(json.load(daemon.ask("GET", "/health"))["pools"][0]["replicas"][0])


@pytest.mark.parametrize("tokens", [0, 2])
def test_a_hung_task_is_ended_and_its_neighbours_are_left_alone(
    daemon: RunningDaemon, tokens: int
) -> None:
    before = show(daemon)
    neighbours = [daemon.submit("[tokens 100] [every 0.05]") for _ in range(2)]
    hung = read_events(daemon.submit(f"[hang {tokens}]"))
    assert [name for name, _ in hung] == ["started", *["token"] * tokens, "error"]
    assert hung[-1][1] == STALLED
    for neighbour in neighbours:
        name, end = read_events(neighbour)[-1]
        assert (name, end["tokens_out"]) == ("end", 100), end
    assert read_events(daemon.submit("[tokens 3]"))[-1][0] == "end"
    after = show(daemon)
    assert (after["pid"], after["restarts"]) == (before["pid"], 0)


def test_a_long_prompt_is_read_in_peace(daemon: RunningDaemon) -> None:
    events = read_events(daemon.submit("[progress 60] [every 0.05] [tokens 1]"))
    assert [name for name, _ in events] == ["started", "token", "end"]


def test_a_stopped_engine_is_found_out_and_comes_back(daemon: RunningDaemon) -> None:
    pid = daemon.hear_engine()
    decoding = daemon.submit("[tokens 1000] [every 0.01]")
    assert decoding.readline() == b"id: 0\n"
    os.kill(pid, signal.SIGSTOP)
    unheard = daemon.submit("[tokens 3]")
    for stream in (decoding, unheard):
        assert read_events(stream)[-1] == ("error", STALLED)
    waiting = daemon.submit("[tokens 3]")
    daemon.hear(f"has not answered since a task made no progress for {STALL_S} s")
    assert read_events(waiting)[-1][0] == "end"
    after = show(daemon)
    assert (after["pid"] != pid, after["restarts"], after["state"]) == (True, 1, "ready")


def test_an_engine_that_reads_a_long_prompt_is_not_hung(
    tmp_path: Path, demo_model: Path, engine_path: str
) -> None:
    """The real one, with a prompt that takes longer than a task may go without progress."""
    pool = f'{CONFIG}\n        args = ["--threads", "1", "--batch-size", "32"]'
    with running_daemon(tmp_path, demo_model, engine_path, ctx=4096, pool=pool) as daemon:
        for sentences in (60, 120, 240):  # as many as this machine needs
            prompt = f"{sentences} times: " + SENTENCE * sentences
            if _read_prompt_s(daemon, prompt) > STALL_S:
                return
    raise AssertionError("too quick an engine to show anything")


def _read_prompt_s(daemon: Daemon, prompt: str) -> float:
    with daemon.events(daemon.submit(prompt=prompt, max_tokens=2)) as events:
        assert next(events).event == "started"
        began_s = time.monotonic()
        assert next(events).event == "token"
        took_s = time.monotonic() - began_s
        assert [event.event for event in events][-1] == "end"
    return took_s

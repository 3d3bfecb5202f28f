"""Pools of engine ``openai`` on real servers, the same tests for each, whatever they differ in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.crowd import FAITHFUL, invite, meet
from tests.e2e.daemon import IDLE_TIMEOUT_S, TOKEN, Daemon, daemon_of_pool
from tests.e2e.servers.table import CTX, SERVERS, Server, Start
from tests.e2e.story import Story, tell_story
from tests.fakes.engines import list_session

PROMPT = "The capital of France is"
LONG = {
    "prompt": "Once upon a time",
    "max_tokens": CTX - 100,
    "seed": 7,
    "temperature": 2,
    "top_k": 0,
    "top_p": 1,
    "min_p": 0,
}
"""Seconds of work for any of them: with all words alike, the one that ends it hardly comes."""
QUIET_S = 0.3
TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def write_keys(server: Server, start: Start) -> str:
    """The pool's keys."""
    keys: dict[str, object] = {
        "engine": server.engine,
        "model": start.model,
        "slots": server.slots,
        "ctx": CTX,
        **({"command": start.command} if start.command else {}),
        **start.more,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in keys.items()]
    env = ", ".join(f"{name} = {json.dumps(value)}" for name, value in start.env.items())
    return "\n".join([*lines, f"env = {{ {env} }}"])


@pytest.fixture(scope="module", params=SERVERS, ids=str)
def server(request: pytest.FixtureRequest) -> Server:
    """Which of them it is."""
    chosen: Server = request.param
    return chosen


@pytest.fixture(scope="module")
def daemon(
    server: Server, demo_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A daemon on that server. The last test of this file stops it."""
    keys = write_keys(server, server.prepare(demo_model, server.slots))
    folder = tmp_path_factory.mktemp(server.name)
    python_path = str(Path(sys.executable).parent)
    with daemon_of_pool(folder, keys, python_path, abandon_after_s=2) as daemon:
        yield daemon
        assert "Traceback (most recent call last)" not in daemon.log.read_text()


def run(daemon: Daemon, **task: object) -> Story:
    return read(daemon, daemon.submit(**task))


def read(daemon: Daemon, task_id: str) -> Story:
    engine = daemon.health()["pools"][0]["engine"]
    events = daemon.stream(task_id).events
    return tell_story([(event.event, json.loads(event.data)) for event in events], engine)


def measure_cpu_s(session: int) -> float:
    """What the session's living processes have computed so far."""
    ticks = 0
    for pid in list_session(session):
        with contextlib.suppress(OSError):  # it has just ended
            # proc_pid_stat(5): behind the name, utime and stime are the 12th and the 13th.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_A_SECOND


def wait_until_quiet(daemon: Daemon) -> None:
    """Until the server computes next to nothing, which it must long before the task is done."""
    session = daemon.wait_for_replica(state="ready")["pid"]
    deadline_s = time.monotonic() + IDLE_TIMEOUT_S
    while True:
        before_s = measure_cpu_s(session)
        time.sleep(QUIET_S)
        busy_s = measure_cpu_s(session) - before_s
        if busy_s < QUIET_S / 4:
            return
        assert time.monotonic() < deadline_s, "the server works on for nobody"


def check_counts(server: Server, story: Story) -> None:
    """The server's own figures, or told to be ours."""
    if server.counts:
        assert "estimated" not in story.last
        assert story.last["tokens_in"] > 0
        assert story.last["tokens_out"] >= story.tokens
    else:
        assert story.last["estimated"] is True
        assert (story.last["tokens_in"], story.last["tokens_out"]) == (0, story.tokens)


def test_a_prompt_is_answered(server: Server, daemon: Daemon) -> None:
    story = run(daemon, prompt=PROMPT, max_tokens=8, temperature=0)
    assert story.text.startswith(" Paris.")
    assert story.last["finish_reason"] == "length"
    check_counts(server, story)
    if server.counts:
        assert (story.last["tokens_in"], story.last["tokens_out"]) == (5, 8)


def test_an_answer_without_a_bound_is_no_shorter_than_the_model_makes_it(daemon: Daemon) -> None:
    # Where a completion names no bound, most servers make 16 tokens.
    story = run(daemon, prompt="1, 2, 3, 4, 5, 6, 7, 8, 9, 10,", temperature=0, stop="25")
    assert story.text.rstrip().endswith(" 23, 24,")
    assert story.last["finish_reason"] == "stop"


def test_a_chat_is_answered_by_the_models_own_template(server: Server, daemon: Daemon) -> None:
    turns = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    story = run(daemon, messages=turns, max_tokens=24, temperature=0)
    assert "Paris" in story.text
    check_counts(server, story)
    if server.counts:
        # More than the words themselves have: the template's.
        assert story.last["tokens_in"] > 30


def test_a_stop_string_ends_the_text_before_it(daemon: Daemon) -> None:
    for stop in (".", [".", "\n"]):
        story = run(daemon, prompt=PROMPT, max_tokens=32, temperature=0, stop=stop)
        assert (story.text, story.last["finish_reason"]) == (" Paris", "stop")


def test_a_seed_makes_the_same_text_again(daemon: Daemon) -> None:
    warm = {"prompt": "Once", "max_tokens": 12, "temperature": 1.5, "top_k": 40, "min_p": 0.01}
    texts = {seed: run(daemon, **warm, seed=seed).text for seed in (1, 2, 3)}
    assert len(set(texts.values())) > 1
    assert run(daemon, **warm, seed=1).text == texts[1]


def test_health_names_the_engine_and_its_version(server: Server, daemon: Daemon) -> None:
    (pool,) = daemon.health()["pools"]
    assert pool["engine"] == server.engine
    if server.version is None:
        assert pool["engine_version"] is None
    else:
        assert re.fullmatch(server.version, pool["engine_version"])


def test_its_key_is_where_only_its_owner_can_read_it(server: Server, daemon: Daemon) -> None:
    session = daemon.wait_for_replica(state="ready")["pid"]
    key = read_key(session)
    for pid in list_session(session):
        assert key not in Path(f"/proc/{pid}/cmdline").read_text()
    assert key not in daemon.log.read_text()
    assert server.asks_for_key != ("its server is given no key" in daemon.log.read_text())


def read_key(session: int) -> str:
    variables = Path(f"/proc/{session}/environ").read_text().split("\0")
    names = ("ORCHD_ENGINE_KEY=", "VLLM_API_KEY=")
    key = next(v.partition("=")[2] for v in variables if v.startswith(names))
    assert len(key) >= 32
    return key


def test_a_cancelled_task_stops_the_server(daemon: Daemon) -> None:
    task_id = daemon.submit(**LONG)
    with daemon.events(task_id) as events:
        assert [next(events).event, next(events).event] == ["started", "token"]
        assert daemon.client.post(f"/v1/tasks/{task_id}/cancel").status_code == 204
    story = read(daemon, task_id)
    assert story.last["code"] == "CANCELLED"
    assert story.tokens < CTX / 4
    wait_until_quiet(daemon)
    assert run(daemon, prompt=PROMPT, max_tokens=1).names[-1] == "end"


def test_a_client_that_is_gone_stops_the_server(daemon: Daemon) -> None:
    task_id = daemon.submit(**LONG)
    with daemon.events(task_id) as events:
        assert [next(events).event, next(events).event] == ["started", "token"]
    daemon.wait_for_replica(slots_busy=0)
    story = read(daemon, task_id)
    assert story.last["code"] == "CANCELLED"
    assert "nobody streamed it" in story.last["message"]
    wait_until_quiet(daemon)


def test_a_prompt_beyond_the_context_harms_nobody_else(server: Server, daemon: Daemon) -> None:
    restarts = daemon.replica()["restarts"]
    words = "word " * 3000
    for task in ({"prompt": words}, {"messages": [{"role": "user", "content": words}]}):
        story = run(daemon, **task, max_tokens=4)
        assert story.text == ""
        assert story.last["code"] == "INVALID_PARAMS"
        assert server.refusal in story.last["message"]
    assert run(daemon, prompt=PROMPT, max_tokens=1).names[-1] == "end"
    assert daemon.replica()["restarts"] == restarts


def test_more_tasks_than_slots_are_all_served(server: Server, daemon: Daemon) -> None:
    alone = run(daemon, prompt=PROMPT, max_tokens=16, temperature=0)
    tasks = [{"prompt": PROMPT, "max_tokens": 16, "temperature": 0}] * (2 * server.slots + 1)
    with ThreadPoolExecutor(len(tasks)) as readers:
        stories = list(readers.map(lambda task: run(daemon, **task), tasks))
    assert [story.text for story in stories] == [alone.text] * len(tasks)


def test_as_many_as_it_has_slots_decode_at_once(server: Server, daemon: Daemon) -> None:
    everyone = threading.Barrier(server.slots + 1)

    def begin(task_id: str) -> None:
        with daemon.events(task_id) as events:
            assert [next(events).event, next(events).event] == ["started", "token"]
            everyone.wait(30)

    task_ids = [daemon.submit(**LONG) for _ in range(server.slots)]
    with ThreadPoolExecutor(server.slots) as readers:
        readings = [readers.submit(begin, task_id) for task_id in task_ids]
        everyone.wait(30)
        assert daemon.replica()["slots_busy"] == server.slots
        cancel_all(daemon, task_ids)
        for reading in readings:
            reading.result()
    daemon.wait_for_replica(slots_busy=0)


def cancel_all(daemon: Daemon, task_ids: Sequence[str]) -> None:
    for task_id in task_ids:
        assert daemon.client.post(f"/v1/tasks/{task_id}/cancel").status_code == 204


def test_a_crowd_good_and_bad_is_served(daemon: Daemon) -> None:
    visitors = invite(seed=11, count=16)

    async def come() -> None:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=daemon.url, headers=headers, timeout=60) as client:
            await meet(client, visitors, lambda visitor: {"prompt": f"{visitor.number} and"})

    asyncio.run(come())
    for visitor in visitors:
        assert visitor.habit not in FAITHFUL or visitor.names[-1] == "end"
    daemon.wait_for_replica(slots_busy=0)


def test_a_killed_server_is_started_again_and_no_queued_task_is_lost(
    server: Server, daemon: Daemon
) -> None:
    before = daemon.wait_for_replica(state="ready")
    running = [daemon.submit(**LONG) for _ in range(server.slots)]
    with daemon.events(running[0]) as events:
        assert [next(events).event, next(events).event] == ["started", "token"]
        queued = daemon.submit(prompt=PROMPT, max_tokens=2, temperature=0, priority="batch")
        os.kill(before["pid"], signal.SIGKILL)
        list(events)
    story = read(daemon, running[0])
    assert story.last["code"] == "WORKER_RESET" and story.tokens > 0
    assert read(daemon, queued).names[-1] == "end"
    after = daemon.wait_for_replica(state="ready")
    assert after["restarts"] == before["restarts"] + 1
    assert list_session(before["pid"]) == []
    cancel_all(daemon, running)


def test_a_stop_in_mid_stream_leaves_no_process(daemon: Daemon) -> None:
    session = daemon.wait_for_replica(state="ready")["pid"]
    task_id = daemon.submit(**LONG)
    with daemon.events(task_id) as events:
        assert [next(events).event, next(events).event] == ["started", "token"]
        daemon.process.send_signal(signal.SIGTERM)
        # Running tasks have a grace, which a second signal ends; of two at once one would be lost.
        while "stopping: running tasks have" not in daemon.log.read_text():
            assert next(events).event == "token"
        assert daemon.stop() == 0
    assert list_session(session) == []

"""What /metrics of the real daemon shows, held against what its clients and the machine know.

Each test changes the world and reads the series; a daemon takes its time to come up, so a test
tells a whole story.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemon import (
    TIMEOUT_S,
    TOKEN,
    RunningDaemon,
    read_events,
    run_daemon,
    write_config,
)
from tests.fakes.engines import install_engine, write_model
from tests.fakes.gate import gate_in
from tests.fakes.nvml import MIB, FakeNvml, build_nvml, card, uuid_of
from tests.scrapes import Page, scrape

POOL = {"engine": "llamacpp", "engine_version": "fake-1", "pool_id": "chat"}


def scrape_until(daemon: RunningDaemon, is_so: Callable[[Page], bool]) -> Page:
    """Scrape until it is so: what a thread or another process does is seen in its time."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so(page := scrape(daemon)):
        assert time.monotonic() < deadline_s, f"it never came to be so:\n{page.text}"
        time.sleep(0.05)
    return page


def submit(daemon: RunningDaemon, prompt: str, **fields: object) -> str:
    answer = daemon.ask("POST", "/v1/tasks", {"prompt": prompt, "max_tokens": 100, **fields})
    assert answer.status == 202, answer.read()
    return str(json.load(answer)["task_id"])


def read(daemon: RunningDaemon, task_id: str) -> list[tuple[str, Any]]:
    return read_events(daemon.ask("GET", f"/v1/tasks/{task_id}/stream"))


def sum_up(stories: list[list[tuple[str, Any]]]) -> tuple[int, int]:
    """Tokens in and out, as the clients saw them: of the ends, and what the others streamed."""
    ends = [story[-1][1] for story in stories if story[-1][0] == "end"]
    failed = [story for story in stories if story[-1][0] == "error"]
    assert len(ends) + len(failed) == len(stories)
    streamed = sum(name == "token" for story in failed for name, _ in story)
    return sum(e["tokens_in"] for e in ends), sum(e["tokens_out"] for e in ends) + streamed


def tokens(page: Page) -> tuple[float, float]:
    return page.total("tokens_in_total"), page.total("tokens_out_total")


# -- tasks ---------------------------------------------------------------------------------------


def test_queue_and_tokens_follow_the_tasks(tmp_path: Path) -> None:
    config = write_config(tmp_path, gates=tmp_path)
    with run_daemon(config) as daemon, gate_in(tmp_path) as gate:
        daemon.hear("became ready")

        def depths() -> tuple[float, float]:
            page = scrape(daemon)
            return (
                page.one("queue_depth", priority="interactive", **POOL),
                page.one("queue_depth", priority="batch", **POOL),
            )

        assert depths() == (0, 0)
        assert tokens(scrape(daemon)) == (0, 0)
        running = submit(daemon, f"[tokens 3] {gate.wish}", priority="batch")
        assert depths() == (0, 0)
        waiting = [submit(daemon, "[tokens 2]", priority="batch") for _ in range(3)]
        assert depths() == (0, 3)
        waiting.append(submit(daemon, "[tokens 4]"))
        assert depths() == (1, 3)
        cancelled = waiting.pop(0)
        assert daemon.ask("POST", f"/v1/tasks/{cancelled}/cancel").status == 204
        assert depths() == (1, 2)

        page = scrape(daemon)
        enqueued = {
            (told["replica_id"], told["priority"]): value
            for told, value in page.find("tasks_enqueued_total", **POOL)
        }
        assert enqueued == {
            ("chat-0", "batch"): 1,
            ("chat-0", "interactive"): 0,
            ("unassigned", "batch"): 3,
            ("unassigned", "interactive"): 1,
        }
        assert tokens(page) == (0, 0), "what runs is counted at its end"

        gate.let_through(100)
        stories = [read(daemon, task_id) for task_id in (running, cancelled, *waiting)]
        assert depths() == (0, 0)
        page = scrape(daemon)
        assert tokens(page) == sum_up(stories) == (4 * 5, 3 + 2 + 2 + 4)
        assert page.total("tasks_enqueued_total") == 5


def test_a_replica_that_is_started_again_goes_on_counting(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path, slots=4)) as daemon:
        of_replica = {**POOL, "replica_id": "chat-0"}
        first = scrape(daemon)
        # Before anything happened, and whether or not its engine has told its version.
        assert first.total("tokens_out_total", replica_id="chat-0") == 0
        assert len(list(first.find("tokens_out_total"))) == 1
        assert len(list(first.find("tasks_enqueued_total"))) == 4
        assert len(list(first.find("queue_depth"))) == 2
        daemon.hear("became ready")
        engine = daemon.hear_engine()
        stories = [read(daemon, submit(daemon, "[tokens 7]"))]
        stories.append(read(daemon, submit(daemon, "[tokens 9] [crash 3]")))
        assert stories[-1][-1][1]["code"] == "WORKER_RESET"
        page = scrape(daemon)
        tokens_in, tokens_out = sum_up(stories)
        assert tokens_in == 5 and tokens_out > 7
        assert page.one("tokens_in_total", **of_replica) == tokens_in
        assert page.one("tokens_out_total", **of_replica) == tokens_out
        # Its last version stands while it is started again.
        assert page.values("tokens_out_total", "engine_version") == {"fake-1"}

        page = scrape_until(
            daemon, lambda page: page.total("vram_used_bytes", replica_id="chat-0") > 0
        )
        (health,) = json.load(daemon.ask("GET", "/health"))["pools"]
        assert health["replicas"][0]["pid"] != engine
        assert page.one("tokens_out_total", **of_replica) == tokens_out
        deadline_s = time.monotonic() + TIMEOUT_S
        while daemon.ask("GET", "/health").status != 200:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        stories.append(read(daemon, submit(daemon, "[tokens 1]")))
        page = scrape(daemon)
        assert tokens(page) == sum_up(stories) == (tokens_in + 5, tokens_out + 1)
        assert page.one("tasks_enqueued_total", priority="interactive", **of_replica) == 3


def send_raw(daemon: RunningDaemon, request: bytes) -> int:
    """The status that these very bytes are answered with."""
    head = f"POST /v1/tasks HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    with socket.create_connection(("127.0.0.1", daemon.port), TIMEOUT_S) as client:
        client.sendall(head + request)
        with client.makefile("rb") as answer:
            return int(answer.readline().split()[1])


def test_every_refused_task_is_counted_by_its_code(tmp_path: Path) -> None:
    pool = "queue = { interactive = 1 }"
    config = write_config(
        *(tmp_path,), server="body_timeout_s = 1\nmax_body_bytes = 1024", pool=pool, load_s=4
    )
    with run_daemon(config) as daemon:

        def post(body: object) -> int:
            return daemon.ask("POST", "/v1/tasks", body).status

        assert {value for _, value in scrape(daemon).find("tasks_rejected_total")} == {0}
        assert post({"prompt": "too early"}) == 503
        daemon.hear("became ready")
        before = scrape(daemon).rejected()
        assert before == {("llamacpp", "POOL_UNAVAILABLE"): 1}

        task_id = "123e4567-e89b-12d3-a456-426614174000"
        assert post({"prompt": "[hang 1]", "task_id": task_id}) == 202
        assert post({"prompt": "again", "task_id": task_id}) == 409
        assert post({"prompt": "waits"}) == 202
        assert post({"prompt": "one too many"}) == 429
        assert post({"prompt": "one too many"}) == 429
        assert post({"prompt": "a", "ctx": 9999}) == 400
        assert post({"prompt": "a", "engine": "vllm"}) == 400
        assert post({"prompt": "a", "deadline_ms": 5}) == 400
        assert post({"prompt": "a" * 2000}) == 413
        assert send_raw(daemon, b"\r\n") == 411
        assert send_raw(daemon, b"Content-Type: text/xml\r\nContent-Length: 1\r\n\r\nx") == 415
        assert send_raw(daemon, b"Content-Length: 9\r\n\r\n{") == 408
        assert send_raw(daemon, b"Transfer-Encoding: chunked\r\n\r\nx\r\n") == 400
        chunk = b"a" * 1025
        large = b"Transfer-Encoding: chunked\r\n\r\n401\r\n" + chunk + b"\r\n0\r\n\r\n"
        assert send_raw(daemon, large) == 413
        # None of these is a task.
        assert send_raw(daemon, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n") == 400
        assert daemon.ask("POST", "/v1/nowhere", {}).status == 404
        assert daemon.ask("DELETE", "/v1/tasks", {}).status == 405
        assert daemon.ask("POST", "/v1/tasks/unknown/cancel", {}).status == 404

        page = scrape(daemon)
        assert page.rejected() == {
            ("llamacpp", "POOL_UNAVAILABLE"): 1,
            ("llamacpp", "CONFLICT"): 1,
            ("llamacpp", "ADMISSION_REJECT"): 2,
            ("llamacpp", "INVALID_PARAMS"): 1,
            ("none", "INVALID_PARAMS"): 3,
            ("none", "PAYLOAD_TOO_LARGE"): 2,
            ("none", "LENGTH_REQUIRED"): 1,
            ("none", "UNSUPPORTED_MEDIA_TYPE"): 1,
            ("none", "REQUEST_TIMEOUT"): 1,
        }
        assert page.total("tasks_enqueued_total") == 2
        daemon.signal(signal.SIGTERM)
        daemon.hear("stopping")
        assert post({"prompt": "too late"}) == 503
        assert scrape(daemon).rejected()["llamacpp", "POOL_UNAVAILABLE"] == 2


# -- devices -------------------------------------------------------------------------------------


def test_an_engine_on_the_cpu_shows_its_process(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        daemon.hear("became ready")
        engine = daemon.hear_engine()
        page = scrape(daemon)
        where = {**POOL, "replica_id": "chat-0", "device": "cpu"}
        pages = Path(f"/proc/{engine}/statm").read_text().split()[1]
        resident_bytes = int(pages) * os.sysconf("SC_PAGE_SIZE")
        assert abs(page.one("vram_used_bytes", **where) - resident_bytes) < 8 * MIB
        assert 0 <= page.one("gpu_utilization", **where) <= 1
        # What it took to load is forgotten; of its whole life it would stay a part for ever.
        scrape_until(daemon, lambda page: page.one("gpu_utilization", **where) == 0)
        streams = [daemon.submit("[tokens 1000]") for _ in range(4)]
        for stream in streams:
            assert read_events(stream)[-1][0] == "end"
        page = scrape(daemon)
        assert 0 < page.one("gpu_utilization", **where) <= 1
        os.kill(engine, signal.SIGKILL)
        # It goes when the process is gone, and comes with the next.
        scrape_until(daemon, lambda page: not list(page.find("vram_used_bytes")))
        scrape_until(daemon, lambda page: any(page.find("vram_used_bytes")))
        # A process that has just begun holds nothing for a moment.
        scrape_until(daemon, lambda page: page.one("vram_used_bytes", **where) > 0)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


def test_gpus_are_shown_as_they_were_last_seen(tmp_path: Path, library: Path) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 24, used_mib=2048, utilization=7)])
    env = ", ".join(
        f'FAKE_{name.upper()} = "{value}"' for name, value in nvml.engine_faults(9000).items()
    )
    config = tmp_path / "orchd.toml"
    config.write_text(
        f'[server]\nlisten = "127.0.0.1:0"\n[[pools]]\nid = "chat"\nengine = "llamacpp"\n'
        f'model = "{write_model(tmp_path)}"\nbinary = "{install_engine(tmp_path)}"\n'
        f"vram_mib = 10000\nenv = {{ {env} }}\n"
    )
    where = {"engine": "llamacpp", "pool_id": "chat", "replica_id": "chat-0", "device": uuid_of(0)}
    with run_daemon(config, **nvml.environment(library)) as daemon:

        def shown(page: Page) -> tuple[list[float], list[float]]:
            return (
                [value for _, value in page.find("gpu_utilization", **where)],
                [value for _, value in page.find("vram_used_bytes", **where)],
            )

        daemon.hear("became ready")
        scrape_until(daemon, lambda page: shown(page) == ([0.07], [9000 * MIB]))
        nvml.change(0, utilization=100, used_mib=4096)
        scrape_until(daemon, lambda page: shown(page) == ([1.0], [9000 * MIB]))
        nvml.change(0, untold=1)
        page = scrape_until(daemon, lambda page: shown(page) == ([1.0], [(9000 + 4096) * MIB]))
        assert page.values("gpu_utilization", "device") == {uuid_of(0)}
        assert page.values("queue_depth", "engine_version") == {"fake-1"}
        # A driver that hangs holds up no scrape; what it said last stands for as long as it may.
        nvml.write(hang=1)
        scrape_until(daemon, lambda page: "cannot see any GPU" in daemon.log)
        page = scrape(daemon)
        assert shown(page) == ([], [])
        assert page.total("tokens_out_total", replica_id="chat-0") == 0
        nvml.write(hang=0)
        scrape_until(daemon, lambda page: bool(shown(page)[0]))

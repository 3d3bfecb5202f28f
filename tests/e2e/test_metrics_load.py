"""A busy daemon that is scraped: a thousand times, and by a real Prometheus."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.daemon import (
    TIMEOUT_S,
    TOKEN,
    RunningDaemon,
    read_events,
    run_daemon,
    write_config,
)
from tests.fakes.gate import Gate, gate_in
from tests.scrapes import Page, scrape, scrape_on

ROOT = Path(__file__).parents[2]
STREAMS = 32
SCRAPES = 1000
ROUNDS = 3
WARM_UP = 100
TOKENS = 3 * SCRAPES // STREAMS + 10
"""More than a stream is let through while it is scraped: none of them ends before."""
GROWTH_BYTES = 512 * 1024
"""What 900 scrapes may add to the daemon's memory, over what the same tokens and as many requests
for its health add. It is an allocator's noise; a fifth of each page, were it kept, would show."""


def resident_bytes(daemon: RunningDaemon) -> int:
    told = Path(f"/proc/{daemon.process.pid}/statm").read_text().split()
    return int(told[1]) * os.sysconf("SC_PAGE_SIZE")


def stream_along(daemon: RunningDaemon, gates: Path, look: Callable[[], None]) -> int:
    """32 streams, all of them under way at each of a thousand looks; the memory that the daemon
    took meanwhile."""
    with contextlib.ExitStack() as stack:
        doors: list[Gate] = [stack.enter_context(gate_in(gates)) for _ in range(STREAMS)]
        streams = [daemon.submit(f"[tokens {TOKENS}] {gate.wish}") for gate in doors]
        warm_bytes = 0
        for number in range(SCRAPES):
            doors[number % STREAMS].let_through(3)
            look()
            if number == WARM_UP:
                warm_bytes = resident_bytes(daemon)
        grown_bytes = resident_bytes(daemon) - warm_bytes
        for gate in doors:
            gate.let_through(TOKENS)
        for stream in streams:
            story = read_events(stream)
            assert [name for name, _ in story] == ["started", *["token"] * TOKENS, "end"]
            told = [(token["i"], token["t"]) for name, token in story if name == "token"]
            assert told == [(n, f"t{n} ") for n in range(TOKENS)]
    return grown_bytes


def test_a_thousand_scrapes_during_32_streams(fake_daemon: RunningDaemon, gates: Path) -> None:
    client = http.client.HTTPConnection("127.0.0.1", fake_daemon.port, timeout=TIMEOUT_S)

    def look_at_health() -> None:
        client.request("GET", "/health", headers={"Authorization": f"Bearer {TOKEN}"})
        with client.getresponse() as answer:
            assert answer.read()

    first = scrape(fake_daemon)
    control_bytes = stream_along(fake_daemon, gates, look_at_health)
    before = scrape(fake_daemon)
    assert gained(first, before) == STREAMS * TOKENS

    def scrape_along() -> int:
        """A thousand scrapes beside 32 streams; the memory that they took."""
        before, seen = scrape(fake_daemon), 0

        def look() -> None:
            nonlocal seen
            page = scrape_on(client)
            seen += 1
            if seen % 20 == 0:  # to read a page takes longer than to write one
                enqueued = before.total("tasks_enqueued_total") + STREAMS
                assert page.total("tasks_enqueued_total") == enqueued
                assert gained(before, page) == 0

        grown_bytes = stream_along(fake_daemon, gates, look)
        after = scrape(fake_daemon)
        assert gained(before, after) == STREAMS * TOKENS
        assert len(after.text) < len(first.text) + 100, "a page grows with what was served"
        return grown_bytes

    grown_bytes: list[int] = []
    with contextlib.closing(client):
        # An allocator fills its hoard once; what is kept of a page is kept of each.
        while not grown_bytes or grown_bytes[-1] - control_bytes >= GROWTH_BYTES:
            assert len(grown_bytes) < ROUNDS, f"{grown_bytes} with scrapes, {control_bytes} without"
            grown_bytes.append(scrape_along())
    print(f"grew by {control_bytes} bytes without scrapes, by {grown_bytes} with them")


def gained(earlier: Page, later: Page) -> float:
    return later.total("tokens_out_total") - earlier.total("tokens_out_total")


# -- a real Prometheus -----------------------------------------------------------------------------


@dataclass
class Counts:
    """What one client saw."""

    admitted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    tokens_in: int = 0
    tokens_out: int = 0


class Prometheus:
    """A server of its own, asked over its HTTP interface."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, query: str) -> list[Any]:
        encoded = urllib.parse.urlencode({"query": query})
        url = f"{self._url}/api/v1/query?{encoded}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return list(told["data"]["result"])

    def wait_for_scrape(self) -> None:
        """Until it has gathered once more."""
        now_s, deadline_s = time.time(), time.monotonic() + TIMEOUT_S
        while not self.ask(f"timestamp(up) > {now_s}"):
            assert time.monotonic() < deadline_s, "it does not gather"
            time.sleep(0.1)

    def one(self, query: str) -> float:
        """The only value that a query gives."""
        ((result,),) = (self.ask(query),)
        return float(result["value"][1])


@contextlib.contextmanager
def running_prometheus(program: str, folder: Path, port: int) -> Iterator[Prometheus]:
    """A server that gathers every second by the README's own configuration."""
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    token = folder / "token"
    token.write_text(TOKEN)
    text = example.replace("/home/you/.local/state/orchd/token", str(token))
    text = text.replace("127.0.0.1:8642", f"127.0.0.1:{port}")
    settings = yaml.safe_load(text) | {"global": {"scrape_interval": "1s"}}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program,
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                "--web.listen-address=127.0.0.1:0",
            ],
            cwd=folder,
            stderr=output,
            stdout=output,
            env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"},
        )
    try:
        deadline_s = time.monotonic() + TIMEOUT_S
        while not (found := re.search(r'"Listening on" address=(\S+)', log.read_text())):
            assert process.poll() is None and time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
        yield Prometheus(f"http://{found[1]}")
    finally:
        process.kill()
        process.wait()


def work(daemon: RunningDaemon, counts: Counts, until_s: float) -> None:
    """One client: tasks good and bad, one after another."""
    client = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=TIMEOUT_S)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    number = 0
    with contextlib.closing(client):
        while time.monotonic() < until_s:
            number += 1
            prompt = f"[tokens {number % 9 + 1}] [every 0.01]"
            body = {"prompt": prompt} if number % 5 else {"prompt": prompt, "deadline_ms": 1}
            client.request("POST", "/v1/tasks", json.dumps(body), headers)
            with client.getresponse() as answer:
                told = json.load(answer)
            if "code" in told:
                counts.refused[told["code"]] += 1
                time.sleep(0.02)
                continue
            counts.admitted += 1
            client.request("GET", f"/v1/tasks/{told['task_id']}/stream", headers=headers)
            with client.getresponse() as answer:
                name, end = read_events(answer)[-1]
            assert name == "end", end
            counts.tokens_in += end["tokens_in"]
            counts.tokens_out += end["tokens_out"]


def put_under_load(daemon: RunningDaemon, clients: int, span_s: float) -> Counts:
    """What all clients saw together."""
    everyone = [Counts() for _ in range(clients)]
    until_s = time.monotonic() + span_s
    threads = [threading.Thread(target=work, args=(daemon, one, until_s)) for one in everyone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counts(
        sum(one.admitted for one in everyone),
        sum((one.refused for one in everyone), Counter()),
        sum(one.tokens_in for one in everyone),
        sum(one.tokens_out for one in everyone),
    )


def test_a_real_prometheus_counts_what_the_clients_do(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus on PATH")
    span_s = request.config.getoption("--scrape-seconds")
    # Fewer slots and places than clients: some wait, and some are refused.
    config = write_config(tmp_path, slots=2, pool="queue = { interactive = 3 }")
    with run_daemon(config) as daemon:
        daemon.hear("became ready")
        with running_prometheus(program, tmp_path, daemon.port) as prometheus:
            prometheus.wait_for_scrape()
            counts = put_under_load(daemon, 6, span_s)
            prometheus.wait_for_scrape()
            seen = {
                "scrapes": prometheus.one("count_over_time(up[1h])"),
                "failed scrapes": prometheus.one("count_over_time(up[1h]) - sum_over_time(up[1h])"),
                "admitted": prometheus.one("sum(tasks_enqueued_total)"),
                "tokens in": prometheus.one("sum(tokens_in_total)"),
                "tokens out": prometheus.one("sum(tokens_out_total)"),
                "waiting": prometheus.one("sum(queue_depth)"),
                "invalid": prometheus.one('tasks_rejected_total{reason="INVALID_PARAMS"} > 0'),
                "rejected": prometheus.one("sum(tasks_rejected_total)"),
            }
            print(f"{span_s:g} s under load: {counts}\n{seen}")
            assert seen["failed scrapes"] == 0 and seen["scrapes"] >= 2
            assert seen["admitted"] == counts.admitted > 0
            assert (seen["tokens in"], seen["tokens out"]) == (counts.tokens_in, counts.tokens_out)
            assert seen["invalid"] == counts.refused["INVALID_PARAMS"] > 0
            assert seen["rejected"] == counts.refused.total()
            assert seen["waiting"] == 0
            assert prometheus.one("sum(scrape_samples_scraped)") == len(
                re.findall("(?m)^[^#]", scrape(daemon).text)
            )
            for query in dashboard_queries():
                prometheus.ask(query)
            for query in ("queue_depth", "gpu_utilization", "vram_used_bytes", "model_state"):
                assert prometheus.ask(query), f"{query} is empty"


def dashboard_queries() -> list[str]:
    """As Grafana would fill them in."""
    panels = json.loads((ROOT / "tools/grafana-dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return [q.replace("$__rate_interval", "4s").replace("$pool", ".*") for q in queries]

"""What /metrics shows of the real engine, held against its own counts."""

from __future__ import annotations

from tests.e2e.daemon import Daemon
from tests.scrapes import Page


def scrape(daemon: Daemon) -> Page:
    answer = daemon.client.get("/metrics")
    assert answer.status_code == 200
    return Page(answer.text)


def test_tokens_are_the_engines_own_counts(daemon: Daemon) -> None:
    before = scrape(daemon)
    prompts = ("The capital of France is", "\U0001f600\U0001f600", "One two three")
    ends = [daemon.run(prompt=prompt, max_tokens=12, seed=1).last for prompt in prompts]
    after = scrape(daemon)
    for name in ("tokens_in_total", "tokens_out_total"):
        key = name.removesuffix("_total")
        gained = after.one(name, replica_id="demo-0") - before.one(name, replica_id="demo-0")
        assert gained == sum(end[key] for end in ends) > 0
    enqueued = "tasks_enqueued_total"
    assert after.total(enqueued) - before.total(enqueued) == len(prompts)


def test_its_version_and_its_process(daemon: Daemon) -> None:
    page = scrape(daemon)
    version = daemon.health()["pools"][0]["engine_version"]
    assert version
    assert page.values("tokens_out_total", "engine_version") == {version}
    assert page.values("queue_depth", "engine_version") == {version}
    assert page.values("vram_used_bytes", "device") == {"cpu"}
    model_bytes = page.one("vram_used_bytes", replica_id="demo-0")
    assert 50 << 20 < model_bytes < 4 << 30
    assert 0 <= page.one("gpu_utilization", replica_id="demo-0") <= 1

"""Many clients at once on the real daemon, all of them good: none is refused, none is cut off. The
engine is a fake one; bounded by count, but for wrk, which knows only seconds."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
from collections import Counter
from typing import Any

import pytest

from tests.conftest import Drive
from tests.fakes.daemon import TIMEOUT_S, TOKEN, RunningDaemon
from tests.http1.raw import Answer, Client

CONNECTIONS = 64
ROUNDS = 16
TOKENS = 3
FIELDS = f"Host: localhost\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
TASK = json.dumps({"prompt": f"[tokens {TOKENS}]", "max_tokens": 100}).encode()
HEALTH = b"GET /health HTTP/1.1\r\n%s\r\n" % FIELDS
SUBMIT = b"POST /v1/tasks HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (FIELDS, len(TASK), TASK)


async def ask(client: Client, request: bytes, status: int) -> Answer:
    answer = await client.ask(request)
    assert answer.status == status, answer
    assert "connection" not in answer.headers, "the connection is not kept"
    return answer


async def work(port: int, counts: Counter[str]) -> None:
    """One client: a few rounds on one connection, each with every kind of good request."""
    client = Client(*await asyncio.open_connection("127.0.0.1", port))
    try:
        for _ in range(ROUNDS):
            health = await ask(client, HEALTH, 200)
            counts[json.loads(health.body)["status"]] += 1
            task = json.loads((await ask(client, SUBMIT, 202)).body)
            path = f"/v1/tasks/{task['task_id']}/stream".encode()
            story = await ask(client, b"GET %s HTTP/1.1\r\n%s\r\n" % (path, FIELDS), 200)
            counts.update(re.findall(r"(?m)^event: (\w+)$", story.body.decode()))
    finally:
        client.close()


def test_good_requests_are_answered_well_all_of_them(
    drive: Drive[Any], fake_daemon: RunningDaemon
) -> None:
    async def scenario() -> Counter[str]:
        counts: Counter[str] = Counter()
        async with asyncio.TaskGroup() as clients:
            for _ in range(CONNECTIONS):
                clients.create_task(work(fake_daemon.port, counts))
        return counts

    tasks = CONNECTIONS * ROUNDS
    expected = {"ok": tasks, "started": tasks, "token": TOKENS * tasks, "end": tasks}
    assert drive(scenario()) == expected
    pool = json.load(fake_daemon.ask("GET", "/health"))["pools"][0]
    assert pool["queue"] == {"interactive": 0, "batch": 0}
    assert pool["replicas"][0]["slots_busy"] == 0


def test_wrk_sees_no_error(fake_daemon: RunningDaemon) -> None:
    wrk = shutil.which("wrk")
    if wrk is None:
        pytest.skip("no wrk on PATH")
    url = f"http://127.0.0.1:{fake_daemon.port}/health"
    options = ("--threads", "1", "--connections", f"{CONNECTIONS}", "--duration", "2s", "--latency")
    done = subprocess.run(
        [wrk, *options, "--header", f"Authorization: Bearer {TOKEN}", url],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) requests in", done.stdout)
    assert found is not None and int(found[1]) > CONNECTIONS
    # It tells of these only where there are some.
    assert "Non-2xx" not in done.stdout and "Socket errors" not in done.stdout

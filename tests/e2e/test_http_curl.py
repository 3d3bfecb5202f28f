"""What curl itself reports of its connections to the real daemon; the engine is a fake one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.e2e.clients.client import Answer
from tests.e2e.clients.curl import Curl, parse_answer
from tests.fakes.daemon import TOKEN, RunningDaemon

TOKEN_FIELD = ("--header", f"Authorization: Bearer {TOKEN}")
MIB = 1024 * 1024


@pytest.fixture
def curl(fake_daemon: RunningDaemon) -> Curl:
    return Curl(fake_daemon.port, *TOKEN_FIELD)


def report(
    curl: Curl, *urls: str, options: tuple[str, ...] = (), body: bytes | None = None
) -> list[tuple[int, int, int]]:
    """For each URL: status, connections made for it, bytes of body sent."""
    figures = ("--write-out", r"%{http_code} %{num_connects} %{size_upload}\n")
    targets = [word for url in urls for word in ("--output", "/dev/null", url)]
    lines = curl.run(*figures, *options, *targets, body=body).stdout.splitlines()
    assert len(lines) == len(urls)
    return [(int(a), int(b), int(c)) for a, b, c in (line.split() for line in lines)]


def submit(curl: Curl, prompt: str) -> str:
    """Submit a task; returns the URL of its stream."""
    task = json.dumps({"prompt": prompt, "max_tokens": 3})
    answer = parse_answer(curl.run("--include", "--data", task, f"{curl.url}/v1/tasks").stdout)
    assert answer.status == 202
    return curl.url + answer.headers["location"]


def test_many_urls_on_one_connection(curl: Curl, tmp_path: Path) -> None:
    stream, health = submit(curl, "[tokens 3]"), f"{curl.url}/health"
    urls = (health, stream, f"{curl.url}/nowhere", f"{curl.url}/v1/tasks", stream, health)
    said = tmp_path / "said"
    found = report(curl, *urls, options=("--verbose", "--stderr", str(said)))
    assert [(status, connects) for status, connects, _ in found] == [
        (200, 1),
        *((200, 0), (404, 0), (405, 0), (200, 0), (200, 0)),
    ]
    # Its words changed from version to version.
    reused = re.findall("(?i)re-?using existing .*connection", said.read_text())
    assert len(reused) == 5


def test_a_body_is_announced_and_invited(curl: Curl) -> None:
    task = json.dumps({"prompt": "x" * (2 * MIB) + "[tokens 1]", "max_tokens": 1}).encode()
    done = curl.run("--verbose", "--data-binary", "@-", f"{curl.url}/v1/tasks", body=task)
    said = [line[:14] for line in done.stderr.decode().splitlines() if line[:1] in ("<", ">")]
    turns = [
        line for line in said if line in ("> Expect: 100-", "< HTTP/1.1 100", "< HTTP/1.1 202")
    ]
    assert turns == ["> Expect: 100-", "< HTTP/1.1 100", "< HTTP/1.1 202"]
    stream = f"{curl.url}/v1/tasks/{json.loads(done.stdout)['task_id']}/stream"
    assert b"event: end" in curl.run(stream).stdout


@pytest.mark.parametrize(
    ("options", "path", "status"),
    [
        ((), "/v1/tasks", 413),
        (("--header", "Authorization: Bearer wrong"), "/v1/tasks", 401),
        ((), "/nowhere", 404),
    ],
)
def test_a_body_that_is_not_wanted_is_not_sent(
    fake_daemon: RunningDaemon, options: tuple[str, ...], path: str, status: int
) -> None:
    curl = Curl(fake_daemon.port, *(options or TOKEN_FIELD))
    upload = ("--data-binary", "@-", "--expect100-timeout", "60")
    found = report(curl, curl.url + path, options=upload, body=bytes(16 * MIB))
    assert found == [(status, 1, 0)]


def test_http_1_0_ends_with_its_connection(curl: Curl) -> None:
    stream = submit(curl, "[tokens 3]")
    old = curl.run("--http1.0", "--include", stream)
    answer = parse_answer(old.stdout)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert not answer.headers.keys() & {"transfer-encoding", "content-length"}
    new = parse_answer(curl.run("--include", stream).stdout)
    assert new.headers["transfer-encoding"] == "chunked"
    assert (new.body, new.body.count(b"\n\n")) == (answer.body, 5)
    found = report(curl, *[f"{curl.url}/health"] * 2, options=("--http1.0",))
    assert found == [(200, 1, 0)] * 2


def test_head_is_get_without_its_body(curl: Curl) -> None:
    def read(*arguments: str) -> Answer:
        answer = parse_answer(curl.run("--include", *arguments).stdout)
        assert answer.headers.keys() >= {"date", "content-type"}
        return Answer(answer.status, {**answer.headers, "date": ""}, answer.body)

    for path in ("/health", submit(curl, "[tokens 3]").removeprefix(curl.url), "/nowhere"):
        get, head = read(curl.url + path), read("--head", curl.url + path)
        assert (head.status, head.headers, head.body) == (get.status, get.headers, b"")

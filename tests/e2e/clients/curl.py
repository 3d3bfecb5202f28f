"""The program curl, one process for each request."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping

import pytest

from tests.e2e.clients.client import TIMEOUT_S, Answer, Event, parse_events, parse_head


class Curl:
    """Runs curl with the same options each time."""

    def __init__(self, port: int, *options: str) -> None:
        program = shutil.which("curl")
        if program is None:
            pytest.skip("no curl on PATH")
        # Nothing of this user's settings, and no proxy.
        plain = ("-q", "--noproxy", "*", "--silent", "--show-error", "--max-time", f"{TIMEOUT_S:g}")
        self._command = [program, *plain, *options]
        self.url = f"http://127.0.0.1:{port}"

    def run(self, *arguments: str, body: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end, with this on its stdin; fails where it does not exit with 0."""
        done = subprocess.run(
            [*self._command, *arguments], input=body, capture_output=True, timeout=2 * TIMEOUT_S
        )
        assert done.returncode == 0, done.stderr
        return done

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        arguments = ["--include", "--request", method, *_fields(headers)]
        if method == "HEAD":
            arguments = ["--head", *_fields(headers)]
        if body is not None:
            arguments += ["--data-binary", "@-"]
        return parse_answer(self.run(*arguments, self.url + path, body=body).stdout)

    @contextlib.contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str]
    ) -> Iterator[tuple[Answer, Iterator[Event]]]:
        arguments = ["--include", "--no-buffer", *_fields(headers), self.url + path]
        with subprocess.Popen([*self._command, *arguments], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                head = parse_head(iter(process.stdout.readline, b"\r\n"))
                yield head, self._events(process)
            finally:
                process.kill()

    def close(self) -> None:
        """Nothing stays between two runs."""

    def _events(self, process: subprocess.Popen[bytes]) -> Iterator[Event]:
        assert process.stdout is not None
        yield from parse_events(process.stdout)
        assert process.wait(TIMEOUT_S) == 0, "curl does not find the stream whole"


def parse_answer(output: bytes) -> Answer:
    """What ``--include`` shows; an invitation to go on with the body is passed over."""
    head, _, body = output.partition(b"\r\n\r\n")
    answer = parse_head(head.splitlines())
    if answer.status == 100:
        return parse_answer(body)
    return Answer(answer.status, answer.headers, body)


def _fields(headers: Mapping[str, str]) -> list[str]:
    return [word for name, value in headers.items() for word in ("--header", f"{name}: {value}")]

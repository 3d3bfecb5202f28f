"""Reloads on the real engine: to a copy of its model in the middle of a stream, and to a truncated
one, by the words of both who find that out."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.daemon import Daemon, running_daemon

TOKENS = 200
"""More than an engine makes while another loads; and yet over in a minute where it is slow."""
SOME_TOKENS = 20
RELOAD_TIMEOUT_S = 120.0
STORY = {"prompt": "Count: 1 2 3 4", "max_tokens": TOKENS, "temperature": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """A name of the demo model that may be given to another."""
    model = tmp_path_factory.mktemp("models") / "model.gguf"
    model.symlink_to(demo_model)
    return model


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, model: Path, engine_path: str
) -> Iterator[Daemon]:
    # With its need written, the engine alone looks into the configured model's file.
    folder = tmp_path_factory.mktemp("reloaded")
    with running_daemon(folder, model, engine_path, pool="vram_mib = 600") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def truncated(model: Path) -> Path:
    """As a download leaves it that broke off."""
    truncated = model.with_name("truncated.gguf")
    shutil.copy(model, truncated)
    os.truncate(truncated, truncated.stat().st_size * 9 // 10)
    return truncated


@dataclass
class Reader:
    """Reads a stream to its end, and notes when each token came."""

    daemon: Daemon
    task_id: str
    names: list[str] = field(default_factory=list)
    text: str = ""
    came_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.is_under_way = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self.daemon.events(self.task_id) as events:
                for event in events:
                    self._note(event.event, event.data)
        finally:
            self.is_under_way.set()

    def _note(self, name: str, data: str) -> None:
        if name == "message":  # so it calls a comment
            return
        self.names.append(name)
        if name == "token":
            self.text += json.loads(data)["t"]
            self.came_s.append(time.monotonic())
        if len(self.came_s) == SOME_TOKENS:
            self.is_under_way.set()

    def join(self) -> None:
        self._thread.join()

    def rate(self, from_s: float, to_s: float) -> str:
        """For people."""
        count = sum(from_s <= at_s <= to_s for at_s in self.came_s)
        return f"{count} tokens in {to_s - from_s:.1f} s"


def reload(daemon: Daemon, model: Path | None) -> tuple[int, dict[str, Any]]:
    body = None if model is None else {"new_model_ref": str(model)}
    answer = daemon.client.post("/v1/pools/demo/reload", json=body, timeout=RELOAD_TIMEOUT_S)
    return answer.status_code, dict(answer.json())


def check_untouched(daemon: Daemon, before: dict[str, Any], told: dict[str, Any]) -> None:
    assert told["code"] == "RELOAD_FAILED"
    assert told["message"].endswith(f"; the old model {before['model']} was not touched")
    assert daemon.wait_for_replica(slots_busy=0) == before
    assert daemon.run(prompt="Once", max_tokens=4, temperature=0).names[-1] == "end"


def test_a_stream_is_whole_though_its_model_is_replaced_by_a_copy(
    daemon: Daemon, model: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.gguf"
    shutil.copy(model, copy)
    alone = daemon.run(**STORY)
    before = daemon.wait_for_replica(slots_busy=0)
    reader = Reader(daemon, daemon.submit(**STORY))
    reader.is_under_way.wait()
    began_s = time.monotonic()
    status, told = reload(daemon, copy)
    ended_s = time.monotonic()
    reader.join()
    print("before:", reader.rate(reader.came_s[0], began_s))
    print("while the copy was loaded and the rest was told:", reader.rate(began_s, ended_s))
    assert (status, told["model_ref"], told["strategy"]) == (200, str(copy), "side-by-side")
    assert reader.names == ["started", *["token"] * len(reader.came_s), "end"]
    assert reader.text == alone.text
    after = daemon.wait_for_replica(state="ready", model=str(copy))
    assert after["pid"] != before["pid"]
    assert not Path(f"/proc/{before['pid']}").exists()
    assert daemon.run(prompt="Once", max_tokens=4, temperature=0).names[-1] == "end"
    assert reload(daemon, model)[0] == 200


def test_a_truncated_copy_is_not_even_started(daemon: Daemon, truncated: Path) -> None:
    before = daemon.wait_for_replica(state="ready", slots_busy=0)
    status, told = reload(daemon, truncated)
    assert status == 503
    assert f"model {truncated} is cut short: it has " in told["message"]
    check_untouched(daemon, before, told)


def test_a_truncated_copy_that_is_started_fails_in_the_engines_own_words(
    daemon: Daemon, model: Path, truncated: Path
) -> None:
    """One that has come in the place of the model, which is loaded afresh."""
    before = daemon.wait_for_replica(state="ready", slots_busy=0)
    sound = model.rename(model.with_name("sound.gguf"))
    model.symlink_to(truncated)
    try:
        status, told = reload(daemon, None)
    finally:
        sound.rename(model)
    assert status == 503
    assert "exited with code 1: " in told["message"]
    assert f"failed to load model, '{model}'" in told["message"]
    incident = daemon.health()["pools"][0]["incidents"][-1]
    assert "is not within the file bounds" in "\n".join(incident["last_lines"])
    check_untouched(daemon, before, told)
    assert reload(daemon, None)[0] == 200

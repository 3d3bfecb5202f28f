"""Reloads of a ward's pools, the models for them, and what must hold after each of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchd.runner.reload_status import Step
from tests.contracts.documents import validator
from tests.e2e.pool_plan import NEED_MIB
from tests.e2e.ward import Ward
from tests.fakes.daemon import TIMEOUT_S
from tests.fakes.engines import list_session, write_heavy_model
from tests.fakes.nvml import MIB, FakeNvml

RELOADED = validator("control.yaml", "Reloaded")

LIGHT_MIB, LIGHT_TAKES_MIB = 300, 600
"""Beside a replica of ``NEED_MIB`` there is room for it on a card of 2 GiB."""
HEAVY_MIB, HEAVY_TAKES_MIB = 900, 1400
"""There is room for it only where that one is gone."""
HUGE_MIB = 2000
"""There is none."""

Model = str | Path


@dataclass(frozen=True)
class Answer:
    """What the client of a reload was told."""

    status: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        return str(self.body["message"])


def write_light(folder: Path, name: str, **faults: object) -> Path:
    faults = {"vram_mib": LIGHT_TAKES_MIB, **faults}
    return write_heavy_model(folder / f"{name}.gguf", LIGHT_MIB, **faults)


def write_heavy(folder: Path, name: str, **faults: object) -> Path:
    faults = {"vram_mib": HEAVY_TAKES_MIB, **faults}
    return write_heavy_model(folder / f"{name}.gguf", HEAVY_MIB, **faults)


# -- asking --------------------------------------------------------------------------------------


def reload(ward: Ward, pool_id: str, model: Model | None = None) -> Answer:
    """Reload the pool with that model, or with its own afresh; the answer is as documented."""
    body = None if model is None else {"new_model_ref": str(model)}
    with ward.ask("POST", f"/v1/pools/{pool_id}/reload", body) as told:
        answer = Answer(told.status, json.load(told))
    if answer.status == 200:
        RELOADED.validate(answer.body)
        assert answer.body["pool_id"] == pool_id
    else:
        assert set(answer.body) == {"code", "message", "engine"}, answer
        assert answer.body["engine"] == "llamacpp"
    return answer


@contextmanager
def reloading(ward: Ward, pool_id: str, model: Model | None = None) -> Iterator[Future[Answer]]:
    """The same, while the test goes on; whoever was kept from loading is let go at its end."""
    with ThreadPoolExecutor(1) as executor:
        try:
            yield executor.submit(reload, ward, pool_id, model)
        finally:
            ward.let_load(pool_id)


def wait_for_token(ward: Ward, task_id: str) -> None:
    """Until the task has its first one."""
    with ward.stream(task_id) as stream:
        assert any(line == b"event: token\n" for line in stream), "it ended without a token"


def wait_for_step(ward: Ward, pool_id: str, step: Step) -> dict[str, Any]:
    """Until the pool's reload is at that; returns the pool."""
    return wait_for_pool(ward, pool_id, lambda pool: (pool["reload"] or {}).get("step") == step)


def wait_for_pool(
    ward: Ward, pool_id: str, is_so: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Ask for the pool until it is so; returns it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so(pool := ward.pool(pool_id)):
        assert time.monotonic() < deadline_s, f"it never came to be so: {pool}"
        time.sleep(0.02)
    return pool


def wait_until_all_ready(ward: Ward, pool_id: str) -> None:
    wait_for_pool(ward, pool_id, lambda p: all(r["state"] == "ready" for r in p["replicas"]))


def wait_for_engine(ward: Ward, pool_id: str, model: Model) -> int:
    """Until an engine loads that model for the pool; its pid."""

    def is_loading(replica: dict[str, Any]) -> bool:
        return (replica["model"], replica["state"]) == (str(model), "loading")

    pool = wait_for_pool(ward, pool_id, lambda p: any(map(is_loading, p["replicas"])))
    return next(int(r["pid"]) for r in pool["replicas"] if is_loading(r))


# -- afterwards ----------------------------------------------------------------------------------


def tell(model: Model, tokens: int = 3) -> str:
    """What a task with ``[signed]`` gets from that model."""
    return "".join(f"{Path(model).stem}:t{n} " for n in range(tokens))


def check_serves(ward: Ward, pool_id: str, model: Model) -> dict[str, Any]:
    """The pool has that model, on the processes of one generation; nothing is held beyond that,
    and a new task ends on it. Returns the pool."""
    pool = wait_for_pool(
        ward,
        pool_id,
        lambda p: (
            p["reload"] is None
            and all(r["state"] == "ready" and not r["slots_busy"] for r in p["replicas"])
        ),
    )
    assert pool["model"] == str(model)
    assert [r["model"] for r in pool["replicas"]] == [str(model)] * len(pool["replicas"])
    assert pool["queue"] == {"interactive": 0, "batch": 0}
    health = ward.health()
    is_at_rest = all(pool["reload"] is None for pool in health["pools"])
    assert health["status"] == "ok" or not is_at_rest
    story = ward.run(pool_id, "[tokens 3] [signed]")
    assert (story.names[-1], story.text) == ("end", tell(model)), story
    check_one_generation(ward, pool)
    ward.wait_for_descriptors()
    return pool


def check_one_generation(ward: Ward, pool: dict[str, Any]) -> None:
    """Of all engines that the pool ever had, those of its replicas alone are there."""
    kept = {replica["pid"] for replica in pool["replicas"]}
    started = {pid for pid in ward.sessions() if f"pool={pool['pool_id']} " in ward.line_of(pid)}
    assert kept <= started
    assert {pid: list_session(pid) for pid in started - kept if list_session(pid)} == {}


def check_reserved(ward: Ward, pool_id: str, mib: int = NEED_MIB) -> None:
    """What is promised on the pool's card is that and no more."""
    assert ward.reserved_bytes(pool_id) == mib * MIB


class CardWatch:
    """Sees how much of each card is in use, all the time."""

    def __init__(self, nvml: FakeNvml) -> None:
        self._nvml = nvml
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.least_free_bytes: dict[str, int] = {}
        self.looks = 0

    def _watch(self) -> None:
        while not self._is_over.wait(0.01):
            gpus = self._nvml.read()
            assert isinstance(gpus, tuple)
            for gpu in gpus:
                free_bytes = getattr(gpu, "free_bytes", 0)
                least = self.least_free_bytes.get(str(gpu.uuid), free_bytes)
                self.least_free_bytes[str(gpu.uuid)] = min(least, free_bytes)
            self.looks += 1

    def __enter__(self) -> CardWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        assert self.looks
        assert all(free >= 0 for free in self.least_free_bytes.values()), self.least_free_bytes

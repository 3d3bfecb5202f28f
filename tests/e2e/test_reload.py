"""Reloads that go well, on the real daemon with real processes: who serves whom, and what is told.

Each pool is on a card of 2 GiB of its own, where a light model has room beside the old one and a
heavy one has not, unless it says else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.runner.reload_status import Step
from tests.e2e.pool_plan import PoolPlan
from tests.e2e.reloads import (
    check_reserved,
    check_serves,
    reload,
    reloading,
    tell,
    wait_for_engine,
    wait_for_pool,
    wait_for_step,
    wait_for_token,
    wait_until_all_ready,
    write_heavy,
    write_light,
)
from tests.e2e.steady_load import steady_load
from tests.e2e.ward import Ward, open_ward
from tests.fakes.daemon import TIMEOUT_S, TOKEN
from tests.fakes.engines import write_heavy_model
from tests.fakes.gate import gate_in
from tests.fakes.nvml import build_nvml
from tests.scrapes import scrape

FRAIL_MIB = 10
"""Two of it have room beside two of ``twice``."""
POOLS = [
    PoolPlan("beside", {}, "slots = 2", 0),
    PoolPlan("in-place", {}, "slots = 2", 1),
    PoolPlan("twice", {"vram_mib": 400}, "slots = 2\nreplicas = 2\nvram_mib = 400", 2),
    PoolPlan("left", card=3),
]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    library = build_nvml(tmp_path_factory.mktemp("nvml"))
    with open_ward(tmp_path_factory.mktemp("ward"), POOLS, library) as ward:
        for pool in POOLS:
            wait_until_all_ready(ward, pool.pool_id)
        ward.note_descriptors()
        yield ward


# -- who serves whom -----------------------------------------------------------------------------


def test_side_by_side_the_old_model_serves_until_the_new_one_does(
    ward: Ward, tmp_path: Path
) -> None:
    before = ward.replica("beside")
    old, new = before["model"], write_light(tmp_path, "light")
    with (
        gate_in(ward.holds) as gate,
        steady_load(ward, "beside", old, new) as load,
        ward.keep_from_loading("beside"),
        contextlib.ExitStack() as stack,
    ):
        running = ward.submit("beside", f"[tokens 3] [signed] {gate.wish}")
        wait_for_token(ward, running)
        answer = stack.enter_context(reloading(ward, "beside", new))
        wait_for_engine(ward, "beside", new)
        pool = wait_for_step(ward, "beside", Step.LOADING)
        assert pool["model"] == old
        told = pool["reload"]
        assert (told["new_model_ref"], told["strategy"]) == (str(new), "side-by-side")
        assert [r["model"] for r in pool["replicas"]] == [old, str(new)]
        assert ward.health()["status"] == "ok"
        load.wait_for(6, old)
        # The old model is the one that tasks may ask for.
        check_refs(ward, served=old, not_served=new)

        ward.let_load("beside")
        wait_for_step(ward, "beside", Step.RETIRING)
        # The others that it had at the switch end.
        pool = wait_for_pool(ward, "beside", lambda p: p["replicas"][1]["slots_busy"] == 1)
        load.wait_for(3, new)
        served = load.served[old]
        assert pool["model"] == str(new)
        assert [r["model"] for r in pool["replicas"]] == [str(new), old]
        assert pool["replicas"][1]["pid"] == before["pid"]
        load.wait_for(6, new)
        check_refs(ward, served=new, not_served=old)
        assert ward.health()["status"] == "ok"
        assert not answer.done()
        gate.let_through(3)
        reloaded = answer.result()
        assert ward.read(running).text == tell(old)
    assert load.served[old] == served, "it has taken a task after the switch"
    assert reloaded.status == 200
    assert reloaded.body.pop("took_ms") > 0
    assert reloaded.body == {
        "pool_id": "beside",
        "model_ref": str(new),
        "previous_model_ref": old,
        "strategy": "side-by-side",
    }
    pool = check_serves(ward, "beside", new)
    assert pool["retired"] == [old]
    assert pool["incidents"] == []
    ward.check_gone(before["pid"])
    check_model_state(ward, active=new, retired=None)


def check_refs(ward: Ward, served: str | Path, not_served: str | Path) -> None:
    """What a task may ask for by its model; another pool may serve the old one too."""
    task = {"pool_id": "beside", "prompt": "[tokens 1]"}
    with ward.ask("POST", "/v1/tasks", task | {"model_ref": str(served)}) as answer:
        assert answer.status == 202, answer.read()
        ward.read(json.load(answer)["task_id"])
    with ward.ask("POST", "/v1/tasks", task | {"model_ref": str(not_served)}) as answer:
        assert (answer.status, json.load(answer)["code"]) == (400, "INVALID_PARAMS")


def check_model_state(ward: Ward, active: str | Path, retired: str | Path | None) -> None:
    page = scrape(ward.daemon)
    assert page.one("model_state", model_id=str(active)) == 1
    assert page.one("model_state", model_id=str(active), state="Active") == 1
    if retired is not None:
        assert page.one("model_state", model_id=str(retired)) == 1
        assert page.one("model_state", model_id=str(retired), state="Retired") == 1


def test_in_place_admission_goes_on_and_whoever_waits_is_served_by_the_new_model(
    ward: Ward, tmp_path: Path
) -> None:
    before = ward.replica("in-place")
    old, new = before["model"], write_heavy(tmp_path, "heavy")
    with (
        gate_in(ward.holds) as gate,
        steady_load(ward, "in-place", old, new) as load,
        ward.keep_from_loading("in-place"),
    ):
        running = ward.submit("in-place", f"[tokens 3] [signed] {gate.wish}")
        wait_for_token(ward, running)
        with reloading(ward, "in-place", new) as answer:
            pool = wait_for_step(ward, "in-place", Step.FINISHING)
            assert pool["reload"]["strategy"] == "in-place"
            assert pool["model"] == old
            # Its own tasks end, and those of the load wait.
            wait_for_pool(ward, "in-place", lambda p: sum(p["queue"].values()) == 3)
            waiting = [
                ward.submit("in-place", "[tokens 3] [signed]", priority=priority)
                for priority in ("interactive", "batch")
            ]
            check_held(ward, "in-place")
            assert ward.pool("in-place")["replicas"][0]["slots_busy"] == 1
            gate.let_through(3)
            assert ward.read(running).text == tell(old)

            loading = wait_for_engine(ward, "in-place", new)
            pool = wait_for_step(ward, "in-place", Step.REPLACING)
            ward.check_gone(before["pid"])
            told = [(r["model"], r["state"], r["pid"]) for r in pool["replicas"]]
            assert told == [(old, "down", None), (str(new), "loading", loading)]
            check_held(ward, "in-place")
            waiting.append(ward.submit("in-place", "[tokens 3] [signed]"))
            ward.let_load("in-place")
            assert (answer.result().status, answer.result().body["strategy"]) == (200, "in-place")
        assert [ward.read(task_id).text for task_id in waiting] == [tell(new)] * 3
        load.wait_for(3, new)
    pool = check_serves(ward, "in-place", new)
    assert (pool["retired"], pool["incidents"]) == ([old], [])
    back = reload(ward, "in-place", old)
    assert (back.status, back.body["strategy"]) == (200, "in-place")
    assert check_serves(ward, "in-place", old)["retired"] == [str(new)]
    check_reserved(ward, "in-place")
    check_model_state(ward, active=old, retired=new)


def check_held(ward: Ward, pool_id: str) -> None:
    """Something is amiss, and it can serve."""
    with ward.ask("GET", "/health") as answer:
        assert (answer.status, json.load(answer)["status"]) == (200, "degraded")
    with ward.ask("POST", "/v1/tasks", {"pool_id": pool_id, "prompt": "[tokens 1]"}) as answer:
        assert answer.status == 202


@pytest.mark.parametrize("body", [None, {}], ids=["no-body", "empty-object"])
def test_without_a_model_the_same_one_is_loaded_afresh(ward: Ward, body: object) -> None:
    before = ward.pool("beside")
    with steady_load(ward, "beside", before["model"]) as load:
        with ward.ask("POST", "/v1/pools/beside/reload", body) as answer:
            told = json.load(answer)
        load.wait_for(3)
    assert (answer.status, told["model_ref"]) == (200, before["model"])
    assert told["previous_model_ref"] == before["model"]
    after = check_serves(ward, "beside", before["model"])
    assert after["replicas"][0]["pid"] != before["replicas"][0]["pid"]
    assert after["retired"] == before["retired"]


def test_all_replicas_of_a_pool_are_replaced_together(ward: Ward, tmp_path: Path) -> None:
    """Two of 400 MiB on a card of 2 GiB: two light ones have room there in their place only."""
    before = ward.pool("twice")
    old, new = before["model"], write_light(tmp_path, "twice")
    with steady_load(ward, "twice", old, new) as load:
        answer = reload(ward, "twice", new)
        load.wait_for(6, new)
    assert (answer.status, answer.body["strategy"]) == (200, "in-place")
    after = check_serves(ward, "twice", new)
    assert len(after["replicas"]) == 2
    assert not {r["pid"] for r in before["replicas"]} & {r["pid"] for r in after["replicas"]}
    assert reload(ward, "twice", old).body["strategy"] == "in-place"
    check_serves(ward, "twice", old)


def test_no_replica_serves_before_all_of_its_generation_can(ward: Ward, tmp_path: Path) -> None:
    """Of two that come up beside the old ones the second fails, and the first never had a task."""
    before = ward.pool("twice")
    ready = ward.daemon.log.count("became ready pool=twice")
    faults = {"exit_but_once": tmp_path / "once", "vram_mib": 300}
    frail = write_heavy_model(tmp_path / "frail.gguf", FRAIL_MIB, **faults)
    with steady_load(ward, "twice", before["model"]) as load:
        answer = reload(ward, "twice", frail)
        load.wait_for(6)
    assert "error: did not fail once" in answer.message
    assert answer.message.endswith(f"; the old model {before['model']} was not touched"), answer
    assert ward.daemon.log.count("became ready pool=twice") == ready + 1
    after = check_serves(ward, "twice", before["model"])
    assert after["replicas"] == before["replicas"]


# -- who asks ------------------------------------------------------------------------------------


def test_a_pool_is_at_one_reload_at_a_time_and_others_are_none_of_its_business(
    ward: Ward, tmp_path: Path
) -> None:
    old = ward.replica("left")["model"]
    first, second = write_light(tmp_path, "first"), write_light(tmp_path, "second")
    with ward.keep_from_loading("left"), reloading(ward, "left", first) as answer:
        wait_for_engine(ward, "left", first)
        for model in (first, second, None):
            busy = reload(ward, "left", model)
            assert (busy.status, busy.body["code"]) == (409, "CONFLICT")
            assert str(first) in busy.message
        assert reload(ward, "beside").status == 200
        ward.let_load("left")
        assert answer.result().status == 200
    check_serves(ward, "left", first)
    assert reload(ward, "left", old).status == 200
    check_serves(ward, "left", old)


def test_a_client_that_hangs_up_stops_nothing(ward: Ward, tmp_path: Path) -> None:
    old, new = ward.replica("left")["model"], write_light(tmp_path, "lonely")
    with ward.keep_from_loading("left"):
        client = http.client.HTTPConnection("127.0.0.1", ward.daemon.port, timeout=TIMEOUT_S)
        with contextlib.closing(client):
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            body = json.dumps({"new_model_ref": str(new)})
            client.request("POST", "/v1/pools/left/reload", body, headers)
            wait_for_engine(ward, "left", new)
            open_files = ward.count_descriptors()
        deadline_s = time.monotonic() + TIMEOUT_S
        while ward.count_descriptors() >= open_files:
            assert time.monotonic() < deadline_s, "its connection was never let go"
            time.sleep(0.02)
        assert ward.pool("left")["reload"]["new_model_ref"] == str(new)
    wait_for_pool(ward, "left", lambda p: p["model"] == str(new) and p["reload"] is None)
    check_serves(ward, "left", new)
    assert reload(ward, "left", old).status == 200
    check_serves(ward, "left", old)


def test_no_more_models_are_remembered_than_are_told(ward: Ward, tmp_path: Path) -> None:
    old = ward.replica("left")["model"]
    before = ward.pool("left")["retired"]
    models = [str(write_light(tmp_path, f"n{n}")) for n in range(5)]
    for model in models:
        assert reload(ward, "left", model).status == 200
    assert ward.pool("left")["retired"] == models[:4]
    told = scrape(ward.daemon).values("model_state", "model_id")
    assert told >= set(models) and not told & ({*before} - {old})
    assert reload(ward, "left", old).status == 200
    check_serves(ward, "left", old)

"""Reloads and the room for them: two pools' on one card, and one on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.runner.host_memory import read_host_memory
from orchd.runner.reload_status import Step
from tests.e2e.pool_plan import NEED_MIB, PoolPlan
from tests.e2e.reloads import (
    CardWatch,
    check_serves,
    reload,
    reloading,
    tell,
    wait_for_engine,
    wait_for_pool,
    wait_for_step,
    wait_for_token,
    write_heavy,
    write_light,
)
from tests.e2e.steady_load import steady_load
from tests.e2e.ward import Ward, open_ward
from tests.fakes.gate import gate_in
from tests.fakes.nvml import MIB, build_nvml


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """Two pools on one card; a light model has room beside their replicas, and not two of them."""
    library = build_nvml(tmp_path_factory.mktemp("nvml"))
    plans = [PoolPlan(f"p{n}", {}, "slots = 2", 0) for n in range(2)]
    with open_ward(tmp_path_factory.mktemp("ward"), plans, library, card_gib=3) as ward:
        for plan in plans:
            ward.wait_until_ready(plan.pool_id)
        ward.note_descriptors()
        yield ward


def test_two_pools_of_one_card_that_has_room_for_one_more(ward: Ward, tmp_path: Path) -> None:
    """Whoever comes second does with its own room, also where both were shown the same."""
    assert ward.nvml is not None
    old = ward.replica("p0")["model"]
    new = [write_light(tmp_path, pool_id) for pool_id in ("p0", "p1")]
    with CardWatch(ward.nvml):
        with (
            steady_load(ward, "p0", old, new[0]),
            steady_load(ward, "p1", old, new[1]),
            ward.keep_from_loading("p0"),
            reloading(ward, "p0", new[0]) as first,
        ):
            wait_for_engine(ward, "p0", new[0])
            with reloading(ward, "p1", new[1]) as second:
                wait_for_step(ward, "p1", Step.REPLACING)
                ward.let_load("p0")
        strategies = [answer.result().body.get("strategy") for answer in (first, second)]
        assert strategies == ["side-by-side", "in-place"], (first, second)
        check_serves(ward, "p0", new[0])
        check_serves(ward, "p1", new[1])
        with (
            steady_load(ward, "p0", old, new[0]),
            steady_load(ward, "p1", old, new[1]),
            reloading(ward, "p0", old) as first,
            reloading(ward, "p1", old) as second,
        ):
            assert [first.result().status, second.result().status] == [200, 200]
        check_serves(ward, "p0", old)
        check_serves(ward, "p1", old)
    assert ward.reserved_bytes("p0") == 2 * NEED_MIB * MIB


def test_the_room_that_a_reload_makes_is_its_own(ward: Ward, tmp_path: Path) -> None:
    """A light model has room beside all that is there, but not once the heavy one has come for
    which its neighbour makes room meanwhile."""
    old = ward.replica("p0")["model"]
    heavy, light = write_heavy(tmp_path, "heavy"), write_light(tmp_path, "light")
    assert ward.nvml is not None
    with (
        CardWatch(ward.nvml),
        gate_in(ward.holds) as gate,
        steady_load(ward, "p0", old, heavy),
        steady_load(ward, "p1", old, light),
    ):
        running = ward.submit("p0", f"[tokens 3] [signed] {gate.wish}")
        wait_for_token(ward, running)
        with reloading(ward, "p0", heavy) as first:
            wait_for_step(ward, "p0", Step.FINISHING)
            with reloading(ward, "p1", light) as second:
                wait_for_pool(ward, "p1", lambda p: bool((p["reload"] or {}).get("strategy")))
                gate.let_through(3)
        answers = [first.result(), second.result()]
        assert [answer.body.get("strategy") for answer in answers] == ["in-place"] * 2, answers
        assert ward.read(running).text == tell(old)
    check_serves(ward, "p0", heavy)
    check_serves(ward, "p1", light)
    assert [reload(ward, pool_id, old).status for pool_id in ("p0", "p1")] == [200, 200]


def test_on_the_cpu_it_is_the_machines_own_memory_that_counts(tmp_path: Path) -> None:
    need_mib = read_host_memory().available_bytes * 55 // 100 // MIB
    plans = [
        PoolPlan("tight", {}, f"slots = 2\nvram_mib = {need_mib}"),
        PoolPlan("small", {}, f"slots = 2\nvram_mib = {NEED_MIB // 9}"),
    ]
    with open_ward(tmp_path / "ward", plans) as ward:
        for plan in plans:
            ward.wait_until_ready(plan.pool_id)
        ward.note_descriptors()
        for pool_id, strategy in (("tight", "in-place"), ("small", "side-by-side")):
            model = ward.replica(pool_id)["model"]
            with steady_load(ward, pool_id, model) as load:
                answer = reload(ward, pool_id)
                load.wait_for(3)
            assert (answer.status, answer.body["strategy"]) == (200, strategy)
            check_serves(ward, pool_id, model)

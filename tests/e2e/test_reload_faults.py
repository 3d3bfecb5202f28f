"""Every way in which a reload can fail, on the real daemon with real processes under a steady load.

The fault is the new model's alone. However the new model was to come, beside the old one or in its
place: the client is told why it did not, no task notices, the old model serves afterwards, and
nothing of the new one is left.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchd.runner.reload_status import Step
from tests.e2e.pool_plan import STALL_S, PoolPlan
from tests.e2e.reloads import (
    HUGE_MIB,
    Answer,
    check_reserved,
    check_serves,
    reload,
    reloading,
    tell,
    wait_for_engine,
    wait_for_step,
    wait_for_token,
    write_heavy,
    write_light,
)
from tests.e2e.steady_load import steady_load
from tests.e2e.ward import Ward, open_ward
from tests.fakes.engines import write_heavy_model
from tests.fakes.gate import gate_in
from tests.fakes.nvml import build_nvml

BESIDE, IN_PLACE = "side-by-side", "in-place"
STRATEGIES = (BESIDE, IN_PLACE)
HASTY = {strategy: f"{strategy}-hasty" for strategy in STRATEGIES}
"""Pools whose engines may not stall for long."""
POOLS = [
    *(PoolPlan(strategy, {}, "slots = 2", n) for n, strategy in enumerate(STRATEGIES)),
    *(
        PoolPlan(pool_id, {}, f"slots = 2\nload_stall_s = {STALL_S}", n)
        for n, pool_id in enumerate(HASTY.values(), len(STRATEGIES))
    ),
]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    library = build_nvml(tmp_path_factory.mktemp("nvml"))
    with open_ward(tmp_path_factory.mktemp("ward"), POOLS, library) as ward:
        for pool in POOLS:
            ward.wait_until_ready(pool.pool_id)
        ward.note_descriptors()
        yield ward


def write_model_for(strategy: str, folder: Path, name: str, **faults: object) -> Path:
    """One that comes to its pool in that way."""
    return (write_light if strategy == BESIDE else write_heavy)(folder, name, **faults)


def check_failed(ward: Ward, pool_id: str, answer: Answer, words: str, old: str, how: str) -> None:
    """Nothing has come of it."""
    assert (answer.status, answer.body["code"]) == (503, "RELOAD_FAILED"), answer
    assert words in answer.message
    assert answer.message.endswith(f"; the old model {old} {how}")
    pool = check_serves(ward, pool_id, old)
    assert pool["retired"] == []
    check_reserved(ward, pool_id)
    ward.daemon.hear(f"could not reload pool={pool_id}: {answer.message}")


# -- models that no engine is started on ---------------------------------------------------------


def _write_cut_short(path: Path) -> None:
    write_heavy_model(path, 10)
    os.truncate(path, path.stat().st_size - 1)


def _write_loop(path: Path) -> None:
    path.symlink_to(path)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "No such file or directory"),
    "directory": (Path.mkdir, "Is a directory"),
    "unreadable": (_write_loop, "Too many levels of symbolic links"),
    "device": (lambda path: path.symlink_to("/dev/null"), "is no file"),
    "empty": (Path.touch, "is "),
    "garbage": (lambda path: path.write_bytes(b"all good things " * 99), "is not a GGUF file"),
    "cut-short": (_write_cut_short, "is cut short"),
    "huge": (lambda path: write_heavy_model(path, HUGE_MIB), "GPU 0 (NVIDIA Card) has"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_model_that_cannot_be_loaded_here_is_refused_at_once(
    ward: Ward, kind: str, tmp_path: Path
) -> None:
    write, words = FILES[kind]
    model = tmp_path / f"{kind}.gguf"
    write(model)
    before = ward.replica(BESIDE)
    engines = len(ward.sessions())
    with steady_load(ward, BESIDE, before["model"]) as load:
        answer = reload(ward, BESIDE, model)
        load.wait_for(3)
    assert str(model) in answer.message or kind == "huge"
    check_failed(ward, BESIDE, answer, words, before["model"], "was not touched")
    assert len(ward.sessions()) == engines
    assert ward.replica(BESIDE) == before


# -- engines that do not come to serve -----------------------------------------------------------


@dataclass(frozen=True)
class BadModel:
    """Whose engine does that."""

    name: str
    faults: dict[str, object]
    words: str


OUT_OF_LUCK = {"exit_at_load": "error: out of luck", "grandchild": 1, "stray": 1}
BAD_MODELS = [
    BadModel("exits", OUT_OF_LUCK, "exited with code 1: error: out of luck"),
    BadModel("crashes", {"crash_at_load": int(signal.SIGSEGV)}, "was ended by SIGSEGV"),
    BadModel("crashes-at-first-token", {"prompt": "[crash 0] "}, ""),
    BadModel("first-token-garbled", {"prompt": "[spoil words] "}, "sent what is not JSON"),
    BadModel("refuses-first-token", {"prompt": "[refuse] "}, "refused to make a first token"),
    BadModel("any-key", {"any_key": 1}, "answered HTTP 200 to a key that is not its own"),
    BadModel("other-key", {"key": "another"}, "answered HTTP 401 when asked who it is"),
    BadModel("other-model", {"model": "/other"}, "answers for another model, /other"),
    BadModel("not-on-its-card", {"vram_folder": ""}, "loaded on the CPU instead of"),
]
STALLS = [
    BadModel("stalls", {"load_s": 600}, f"made no progress at loading for {STALL_S} s"),
    BadModel("never-binds", {"never_binds": 1}, f"made no progress at loading for {STALL_S} s"),
    BadModel("stalls-at-first-token", {"prompt": "[hang 0] "}, "loaded, but made no token in 2 s"),
]
HOW = {BESIDE: "was not touched", IN_PLACE: "is back"}


def check_bad(ward: Ward, pool_id: str, strategy: str, bad: BadModel, folder: Path) -> None:
    before = ward.replica(pool_id)
    model = write_model_for(strategy, folder, bad.name, **bad.faults)
    with steady_load(ward, pool_id, before["model"]) as load:
        answer = reload(ward, pool_id, model)
        load.wait_for(3)
    check_failed(ward, pool_id, answer, bad.words, before["model"], HOW[strategy])
    after = ward.replica(pool_id)
    assert (after["pid"] == before["pid"]) == (strategy == BESIDE)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("bad", BAD_MODELS, ids=lambda bad: str(bad.name))
def test_a_model_whose_engine_fails_costs_nobody_anything(
    ward: Ward, strategy: str, bad: BadModel, tmp_path: Path
) -> None:
    check_bad(ward, strategy, strategy, bad, tmp_path)


@pytest.mark.parametrize("stall", STALLS, ids=lambda stall: str(stall.name))
def test_a_model_whose_engine_stalls_is_given_up(
    ward: Ward, stall: BadModel, tmp_path: Path
) -> None:
    """In both ways at once, which takes half the time."""
    with ThreadPoolExecutor() as executor:
        checks = []
        for strategy in STRATEGIES:
            (folder := tmp_path / strategy).mkdir()
            checks.append(
                executor.submit(check_bad, ward, HASTY[strategy], strategy, stall, folder)
            )
        for check in checks:
            check.result()


# -- engines that are killed ---------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_new_engine_that_is_killed_while_it_loads(
    ward: Ward, strategy: str, tmp_path: Path
) -> None:
    old = ward.replica(strategy)["model"]
    model = write_model_for(strategy, tmp_path, "killed")
    with (
        steady_load(ward, strategy, old) as load,
        ward.keep_from_loading(strategy),
        reloading(ward, strategy, model) as answer,
    ):
        os.kill(wait_for_engine(ward, strategy, model), signal.SIGKILL)
        ward.let_load(strategy)
        told = answer.result()
        load.wait_for(3)
    check_failed(ward, strategy, told, "was ended by SIGKILL", old, HOW[strategy])


def test_an_old_engine_that_is_killed_while_the_new_one_loads_beside_it(
    ward: Ward, tmp_path: Path
) -> None:
    before = ward.replica(BESIDE)
    old, new = before["model"], write_light(tmp_path, "beside")
    with (
        steady_load(ward, BESIDE, old, new, losses=("WORKER_RESET",)) as load,
        ward.keep_from_loading(BESIDE),
        reloading(ward, BESIDE, new) as answer,
    ):
        wait_for_engine(ward, BESIDE, new)
        os.kill(before["pid"], signal.SIGKILL)
        ward.daemon.hear(f"lost an engine pool={BESIDE} replica={before['replica_id']}")
        ward.let_load(BESIDE)
        assert answer.result().status == 200
        load.wait_for(3, new)
    check_serves(ward, BESIDE, new)
    go_back(ward, BESIDE, old)


def test_an_old_engine_that_is_killed_while_it_finishes_its_tasks(
    ward: Ward, tmp_path: Path
) -> None:
    """Before the new one loads in its place, and after the switch to one beside it."""
    for strategy, step in ((IN_PLACE, Step.FINISHING), (BESIDE, Step.RETIRING)):
        before = ward.replica(strategy)
        old = before["model"]
        new = write_model_for(strategy, tmp_path, f"after-{strategy}")
        with gate_in(ward.holds) as gate:
            running = ward.submit(strategy, f"[tokens 3] [signed] {gate.wish}")
            wait_for_token(ward, running)
            with (
                steady_load(ward, strategy, old, new, losses=("WORKER_RESET",)) as load,
                reloading(ward, strategy, new) as answer,
            ):
                wait_for_step(ward, strategy, step)
                os.kill(before["pid"], signal.SIGKILL)
                assert answer.result().status == 200
                load.wait_for(3, new)
            story = ward.read(running)
        assert (story.last["code"], story.text) == ("WORKER_RESET", tell(old, 1))
        check_serves(ward, strategy, new)
        go_back(ward, strategy, old)


def go_back(ward: Ward, pool_id: str, old: str) -> None:
    """To the model that the next test expects; nobody remembers that there was another."""
    answer = reload(ward, pool_id, old)
    assert (answer.status, answer.body["model_ref"]) == (200, old)
    check_serves(ward, pool_id, old)
    check_reserved(ward, pool_id)

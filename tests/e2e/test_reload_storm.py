"""A storm of reloads, good and bad, from several clients at once, under a steady load.

No engine that serves is hurt, so not one task may be lost, and none refused. ``--storm-seconds``
makes it longer; the seed that is printed, given to ``--storm-seed``, draws the same models again.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.pool_plan import PoolPlan
from tests.e2e.reloads import (
    HUGE_MIB,
    CardWatch,
    check_serves,
    reload,
    wait_until_all_ready,
    write_heavy,
    write_light,
)
from tests.e2e.steady_load import steady_load
from tests.e2e.ward import Ward, open_ward
from tests.fakes.engines import write_heavy_model
from tests.fakes.nvml import build_nvml

CLIENTS = 5
MOST_A_SECOND = 5
"""Reloads that one client asks for."""
PLANS = [
    PoolPlan("alone", {}, "slots = 2", 0),
    PoolPlan("neighbour-0", {}, "slots = 2", 1),
    PoolPlan("neighbour-1", {"vram_mib": 350}, "slots = 2\nreplicas = 2\nvram_mib = 350", 1),
    PoolPlan("cpu", {}, "slots = 2"),
]
CARD_GIB = 3


def write_models(folder: Path) -> tuple[list[str], list[str]]:
    """Those that may come to serve, and those that must not."""
    cut_short = write_heavy(folder, "cut-short")
    cut_short.write_bytes(cut_short.read_bytes()[:2000])
    good = [write_light(folder, "light-0"), write_light(folder, "light-1")]
    bad = [
        *(folder / "absent.gguf", folder, cut_short),
        write_heavy_model(folder / "huge.gguf", 2 * HUGE_MIB),
        write_light(folder, "exits", exit_at_load="error: out of luck"),
        write_heavy(folder, "heavy-exits", exit_at_load="error: out of luck"),
        write_light(folder, "crashes", prompt="[crash 0] "),
        write_light(folder, "other", model="/other"),
    ]
    return [str(model) for model in good], [str(model) for model in bad]


class Storm:
    """What its clients did, and were told."""

    def __init__(self, ward: Ward, good: list[str], bad: list[str], span_s: float) -> None:
        self._ward, self._good, self._bad = ward, good, bad
        self._until_s = time.monotonic() + span_s
        self._most = round(span_s * MOST_A_SECOND)
        self.told: Counter[tuple[str, int]] = Counter()
        self.faults: list[BaseException] = []

    def rage(self, dice: random.Random) -> None:
        """One client."""
        try:
            for _ in range(self._most):
                if time.monotonic() > self._until_s or self.faults:
                    return
                pool_id = dice.choice(PLANS).pool_id
                kind = dice.choice(("good", "good", "bad", "afresh"))
                models = {"good": self._good, "bad": self._bad}.get(kind)
                model = None if models is None else dice.choice(models)
                answer = reload(self._ward, pool_id, model)
                self.told[kind, answer.status] += 1
                if answer.status == 503:
                    self._check_failed(kind, answer.body["code"], answer.message)
                else:
                    assert answer.status == 409 or kind != "bad" or pool_id == "cpu", answer
                if answer.status == 409:
                    time.sleep(dice.random())
        except BaseException as error:
            self.faults.append(error)

    def _check_failed(self, kind: str, code: str, message: str) -> None:
        assert code == "RELOAD_FAILED"
        assert message.endswith((" was not touched", " is back")), message
        # On a card with neighbours there may be no room even for a good one.
        assert kind == "bad" or "GPU 1 (NVIDIA Card) has" in message or "room" in message, message


def test_a_storm_of_reloads(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> None:
    span_s = request.config.getoption("--storm-seconds")
    seed = request.config.getoption("--storm-seed") or random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    library = build_nvml(tmp_path_factory.mktemp("nvml"))
    good, bad = write_models(tmp_path)
    with (
        open_ward(tmp_path / "ward", PLANS, library, card_gib=CARD_GIB) as ward,
        ExitStack() as stack,
    ):
        for plan in PLANS:
            wait_until_all_ready(ward, plan.pool_id)
        ward.note_descriptors()
        assert ward.nvml is not None
        stack.enter_context(CardWatch(ward.nvml))
        models = [ward.pool("alone")["model"], *good, *bad]
        loads = [
            stack.enter_context(steady_load(ward, plan.pool_id, *models, clients=2))
            for plan in PLANS
        ]
        storm = Storm(ward, good, bad, span_s)
        clients = [
            threading.Thread(target=storm.rage, args=(random.Random(dice.random()),))
            for _ in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        while any(client.is_alive() for client in clients):
            ward.health()
            clients[0].join(0.1)
        stack.close()
        for pool in ward.health()["pools"]:
            check_serves(ward, pool["pool_id"], pool["model"])
        assert [device["reason"] for device in ward.health()["devices"]] == [None, None]
        assert "did not give back" not in ward.daemon.log
        print(dict(storm.told), [load.served.total() for load in loads])
        if storm.faults:
            raise storm.faults[0]
        assert storm.told["good", 200] and storm.told["bad", 503] and storm.told.total() > CLIENTS

"""Models that are not what their sha256 says, on the real daemon, and what is told of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path

from tests.e2e.pool_plan import PoolPlan
from tests.e2e.ward import open_ward
from tests.fakes.daemon import run_daemon, write_config
from tests.fakes.engines import write_model

HUGE_BYTES = 1 << 40
"""All of it a hole; to hash it takes minutes on any machine."""


def digest_of(model: Path) -> str:
    return hashlib.sha256(model.read_bytes()).hexdigest()


def write_model_of(folder: Path, name: str) -> Path:
    folder = folder / name
    folder.mkdir()
    return write_model(folder)


def test_a_damaged_model_is_not_loaded_until_it_is_mended(tmp_path: Path) -> None:
    damaged, keyed, unsigned = (
        write_model_of(tmp_path, name) for name in ("damaged", "keyed", "unsigned")
    )
    whole, digest = damaged.read_bytes(), digest_of(damaged)
    Path(f"{damaged}.sha256").write_text(f"{digest}  {damaged.name}\n")
    damaged.write_bytes(whole[:-1] + b"x")
    expected = (
        f"model {damaged} is not what it should be: its sha256 is {digest_of(damaged)[:12]}…, and"
        f" {damaged}.sha256 says {digest[:12]}…; fetch it anew, or mend the digest"
    )
    pools = [
        PoolPlan("damaged", keys=f'model = "{damaged}"'),
        PoolPlan("keyed", keys=f'model = "{keyed}"\nsha256 = "{digest_of(keyed).upper()}"'),
        PoolPlan("unsigned", keys=f'model = "{unsigned}"'),
    ]
    with open_ward(tmp_path / "ward", pools) as ward:
        ward.daemon.hear(f"could not start pool=damaged replica=damaged-0: {expected}")
        replica = ward.wait_for("damaged", lambda r: r["state"] == "backoff")
        assert replica["reason"].startswith(expected)
        assert "; tries again in " in replica["reason"]
        assert replica["pid"] is None
        with ward.ask("POST", "/v1/tasks", {"pool_id": "damaged", "prompt": "hello"}) as refused:
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
            assert expected in refused.read().decode()

        draft = damaged.with_name("draft")
        draft.write_bytes(whole)
        draft.replace(damaged)
        assert ward.wait_until_ready("damaged")["restarts"] == 0
        ward.check_task("damaged")
        assert ward.pool("damaged")["incidents"] == []

        for pool_id in ("keyed", "unsigned"):
            os.kill(ward.wait_until_ready(pool_id)["pid"], signal.SIGKILL)
        for pool_id in ("keyed", "unsigned"):
            ward.wait_until_ready(pool_id, restarts=1)
            ward.check_task(pool_id)
        checked = f"checked a model file sha256={digest[:12]}…: "
        log = ward.daemon.log
        assert log.count(f"{checked}{damaged} is as {damaged}.sha256 says") == 1
        assert log.count(f"{checked}{keyed} is as the pool's sha256 says") == 1
        assert log.count(f"did not check {unsigned}: no sha256 is known for it; put it into") == 1
        assert log.count("did not check") == 1


def test_while_a_huge_model_is_hashed_it_is_told_and_does_not_hold_up_a_stop(
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path, pool=f'sha256 = "{"0" * 64}"\nload_stall_s = 1')
    os.truncate(tmp_path / "model.gguf", HUGE_BYTES)
    with run_daemon(config) as daemon:
        # Longer than a load may stand still: this is none, and does not.
        so_far_s = 0
        while so_far_s < 2:
            with daemon.ask("GET", "/health") as answer:
                (pool,) = json.load(answer)["pools"]
            (replica,) = pool["replicas"]
            assert (replica["state"], replica["pid"]) == ("placing", None), replica
            so_far_s = int(replica["reason"].split()[2])
            time.sleep(0.05)
        what = r"checks the sha256 of its model, \d+% of 1024\.0 GiB read"
        assert re.fullmatch(rf"placing for \d+ s \({what}\)", replica["reason"])
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log

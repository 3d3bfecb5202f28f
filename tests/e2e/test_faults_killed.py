"""A daemon that is killed leaves nothing of any engine, however that one was started."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path

from tests.e2e.pool_plan import PoolPlan
from tests.e2e.ward import open_ward
from tests.fakes.daemon import TIMEOUT_S
from tests.fakes.engines import install_engine, list_session

# A script that waits for its engine, as people write them around an environment or a log.
WRAPPER = """#!/bin/sh
{command} "$@"
exit $?
"""


def install_wrapper(folder: Path) -> Path:
    folder.mkdir()
    program = folder / "llama-server-wrapped"
    program.write_text(WRAPPER.format(command=shlex.quote(str(install_engine(folder)))))
    program.chmod(0o755)
    return program


def test_a_killed_daemon_leaves_nothing_of_its_engines(tmp_path: Path) -> None:
    wrapper = install_wrapper(tmp_path / "wrapped")
    ready = [
        PoolPlan("plain"),
        PoolPlan("stubborn", {"ignore_sigterm": 1}),
        PoolPlan("parent", {"grandchild": 1, "stray": 1}),
        PoolPlan("wrapped", {"grandchild": 1, "stray": 1}, f'binary = "{wrapper}"'),
        PoolPlan("flooding", {"flood_bytes": 1 << 40}),
    ]
    loading = PoolPlan("loading", {"load_s": 600, "grandchild": 1}, "load_stall_s = 600")
    with open_ward(tmp_path / "ward", [*ready, loading], ends_well=False) as ward:
        for pool in ready:
            ward.wait_until_ready(pool.pool_id)
        pids = [ward.replica(pool.pool_id)["pid"] for pool in (*ready, loading)]
        task_id = ward.submit("plain", "[tokens 1000] [every 0.02]")
        with ward.stream(task_id) as stream:
            assert stream.readline().startswith(b"id: 0")
            sizes = {
                pool.pool_id: len(list_session(pid)) for pool, pid in zip(ready, pids, strict=False)
            }
            assert sizes == {"plain": 1, "stubborn": 1, "parent": 3, "wrapped": 4, "flooding": 1}
            ward.daemon.signal(signal.SIGKILL)
            assert ward.daemon.wait() == -signal.SIGKILL
        deadline_s = time.monotonic() + TIMEOUT_S
        while left := [pid for session in pids for pid in list_session(session)]:
            assert time.monotonic() < deadline_s, f"{left} outlived the daemon"
            time.sleep(0.02)
        for pid in pids:
            ward.check_gone(pid)

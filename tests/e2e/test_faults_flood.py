"""An engine that floods its log costs the daemon little, and its neighbours and itself no token.

What it costs is compared with a plain loop that reads as much on the same machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.pool_plan import PoolPlan
from tests.e2e.ward import Ward, open_ward
from tests.fakes.daemon import TIMEOUT_S
from tests.fakes.journal import read_journal
from tests.fakes.nvml import MIB

FLOOD_MIB = 128
KINDS = ("lines", "unended", "binary")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

_WRITE = f"""
import os
block = b"flood flood\\n" * 5000
for _ in range({FLOOD_MIB * MIB} // len(block)):
    os.write(1, block)
"""
_READ = f"""
import os, resource, subprocess, sys
writer = subprocess.Popen([sys.executable, "-I", "-S", "-c", {_WRITE!r}], stdout=subprocess.PIPE)
lines = 0
while data := os.read(writer.stdout.fileno(), 65536):
    lines += data.count(b"\\n")
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime)
"""


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an engine says that its flood is over."""
    return tmp_path_factory.mktemp("journals")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, journals: Path) -> Iterator[Ward]:
    pools = [PoolPlan(kind, {"flood_of": kind, "journal": journals / kind}) for kind in KINDS]
    pools.append(PoolPlan("neighbour"))
    with open_ward(tmp_path_factory.mktemp("ward"), pools) as ward:
        for pool in pools:
            ward.wait_until_ready(pool.pool_id)
        ward.note_descriptors()
        yield ward


@pytest.fixture(scope="module")
def plain_cpu_s() -> float:
    """What it costs to read as much in a loop and count its lines, with the program's start."""
    read = [sys.executable, "-I", "-S", "-c", _READ]
    return float(subprocess.run(read, check=True, capture_output=True, text=True).stdout)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flood_costs_little_and_nobody_a_token(
    ward: Ward, journals: Path, plain_cpu_s: float, kind: str
) -> None:
    before = ward.replica(kind)
    cpu_s, rss_bytes, log_bytes = read_cpu_s(ward), read_rss_bytes(ward), len(ward.daemon.log)
    neighbour = ward.submit("neighbour", "[tokens 200] [every 0.005]")
    flooding = ward.submit(kind, f"[flood {FLOOD_MIB}] [tokens 200] [every 0.005]")
    for task_id in (neighbour, flooding):
        story = ward.read(task_id)
        assert story.text == "".join(f"t{n} " for n in range(200))
        assert story.last["tokens_out"] == 200
    wait_for_line(journals / kind, "flooded")

    cost_s = read_cpu_s(ward) - cpu_s
    assert cost_s < 10 * plain_cpu_s + 0.5, f"{cost_s} s, and {plain_cpu_s} s in a plain loop"
    assert read_rss_bytes(ward) - rss_bytes < 16 * MIB
    assert len(ward.daemon.log) - log_bytes < MIB
    assert ward.replica(kind) == before
    ward.check_well(kind)


def wait_for_line(path: Path, line: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while line not in [entry.text for entry in read_journal(path)]:
        assert time.monotonic() < deadline_s, f"{line!r} never came"
        time.sleep(0.02)


def read_cpu_s(ward: Ward) -> float:
    """What the daemon has used so far."""
    stat = Path(f"/proc/{ward.daemon.process.pid}/stat").read_text().rpartition(")")[2].split()
    # proc_pid_stat(5): utime and stime, counted from the state behind the name.
    return (int(stat[11]) + int(stat[12])) * TICK_S


def read_rss_bytes(ward: Ward) -> int:
    statm = Path(f"/proc/{ward.daemon.process.pid}/statm").read_text().split()
    return int(statm[1]) * os.sysconf("SC_PAGE_SIZE")

"""What a process takes of the CPU: over a span that nobody who asks can cut short."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import pytest

from orchd.metrics.cpu_watch import CpuUse, CpuWatch, ProcessTimes, read_clock, read_times
from tests.conftest import Drive

CORES = len(os.sched_getaffinity(0))
PID = 7


class Machine:
    """A clock and one process, as a test moves them."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.process: ProcessTimes | None = ProcessTimes(1000.0, 0.0, 4096)
        self.watch = CpuWatch(
            lambda: (PID,),
            read=lambda pid: self.process,
            clock=lambda: self.now_s,
        )

    def compute(self, span_s: float, share: float) -> None:
        """Time goes by, in which the process takes that share of all cores."""
        self.now_s += span_s
        if self.process is not None:
            computed_s = self.process.computed_s + span_s * share * CORES
            self.process = ProcessTimes(self.process.started_s, computed_s, 4096)

    @property
    def share(self) -> float:
        use = self.watch.use_of(PID)
        assert use is not None
        return round(use.share, 6)


def test_a_share_is_known_from_the_start() -> None:
    machine = Machine()
    machine.compute(1, 0.5)
    assert machine.watch.use_of(PID) == CpuUse(0.5, 4096)


def test_a_share_is_that_of_the_last_spans() -> None:
    machine = Machine()
    for share in (1.0, 1.0, 0.0, 0.0):
        machine.watch.look()
        machine.compute(2, share)
    assert machine.share == 0
    machine.compute(1, 0.5)
    assert machine.share == 0.1  # half of one second of five
    machine.watch.look()
    machine.compute(1, 1.0)
    assert machine.share == 0.375  # of four seconds, since the mark before the last


def test_to_ask_changes_nothing_for_the_next_who_asks() -> None:
    machine = Machine()
    machine.watch.look()
    machine.compute(2, 0.5)
    machine.watch.look()
    machine.compute(2, 0.5)
    assert [machine.share for _ in range(100)] == [0.5] * 100


def test_a_share_is_never_beyond_all_there_is() -> None:
    machine = Machine()
    machine.process = ProcessTimes(1000.0, 50.0, 4096)
    assert machine.share == 1  # no time has gone by, as the kernel counts it
    machine.now_s += 1
    assert machine.share == 1


def test_a_pid_that_comes_again_is_another_process() -> None:
    machine = Machine()
    for _ in range(2):
        machine.watch.look()
        machine.compute(100, 1.0)
    machine.process = ProcessTimes(machine.now_s, 0.0, 4096)
    machine.compute(1, 0.25)
    assert machine.share == 0.25


def test_a_process_that_is_gone_takes_nothing_and_is_forgotten() -> None:
    machine = Machine()
    machine.watch.look()
    machine.process = None
    assert machine.watch.use_of(PID) is None
    machine.watch.look()
    assert not machine.watch._marks


def test_what_its_descendants_take_is_its_own() -> None:
    times = {7: ProcessTimes(1000.0, 0.0, 100), 8: ProcessTimes(1001.0, 0.0, 4000)}
    now_s = 1002.0
    watch = CpuWatch(
        lambda: (7,), lambda pid: [pid, 8, 9], read=lambda pid: times.get(pid), clock=lambda: now_s
    )
    for _ in range(2):
        watch.look()
        now_s += 2
        times[8] = ProcessTimes(1001.0, times[8].computed_s + 1.0 * CORES, 4000)
    assert watch.use_of(7) == CpuUse(0.5, 4100)
    del times[8]
    assert watch.use_of(7) == CpuUse(0.0, 100)


def test_a_child_that_was_waited_for_is_in_its_parents_time() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"{program}print(flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        told = read_times(process.pid)
        process.stdin.close()
    assert told is not None and told.computed_s > 0.25


def test_the_timer_looks_until_it_is_stopped(drive: Drive[Any]) -> None:
    async def scenario() -> None:
        looked: list[None] = []
        woken = asyncio.Event()

        def list_pids() -> tuple[int, ...]:
            looked.append(None)
            if len(looked) == 3:
                woken.set()
            return ()

        watch = CpuWatch(list_pids, interval_s=0.001)
        watch.stop()  # before it began
        watch.start()
        await woken.wait()
        watch.stop()
        count = len(looked)
        await asyncio.sleep(0.02)
        assert len(looked) == count

    drive(scenario())


BURN = "import time\nwhile time.process_time() < {}: pass\nprint(flush=True); input()"


@pytest.mark.parametrize("seconds", [0.3])
def test_a_real_process(seconds: float) -> None:
    before_s = read_clock()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", BURN.format(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None and process.stdin is not None
        process.stdout.readline()
        told = read_times(process.pid)
        use = CpuWatch(lambda: ()).use_of(process.pid)
        span_s = read_clock() - before_s
        process.stdin.close()
    assert told is not None and use is not None
    # In ticks of the kernel, each begun one rounded off.
    assert seconds - 0.05 <= told.computed_s <= span_s + 0.05
    assert before_s - 0.05 <= told.started_s <= before_s + span_s + 0.05
    assert 1 << 20 < told.resident_bytes < 1 << 30
    assert 0 < use.share <= 1
    assert read_times(process.pid) is None

"""Whether the queue grows dearer with those who wait: the real core, in processes of its own.

Run as ``python -m benchmark.queue_cost DEPTH STEPS`` it prints the microseconds of CPU time that
one enqueue, one cancel and one dequeue take together. A process each, so that what the many cost
Python's garbage collector is counted where they are, and the few do not pay for it.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import deque
from itertools import count
from statistics import median

from benchmark.ground import BenchError, Found, Ground
from orchd.api.wire import encode_event
from orchd.config.model import PoolConfig, QueueConfig
from orchd.engines.adapter import Done, Generation
from orchd.serving.core import Core
from orchd.serving.dispatch import Grant
from orchd.serving.entry import Entry
from orchd.serving.task import Priority, TaskSpec
from orchd.serving.world import Outage, World

DEPTHS = (100, 100_000)
_TIMEOUT_S = 120
_DONE = Done("stop", 1, 1, 1)


def measure_queue(ground: Ground) -> Found:
    """In turns, the few and the many."""
    costs_us: dict[int, list[float]] = {depth: [] for depth in DEPTHS}
    for _ in range(ground.scale.queue_rounds):
        for depth in DEPTHS:
            costs_us[depth].append(_time_apart_us(depth, ground.scale.queue_steps))
    few, many = DEPTHS
    ratios = [b / a for a, b in zip(costs_us[few], costs_us[many], strict=True)]
    raw = {f"us_at_{depth}": median(costs) for depth, costs in costs_us.items()}
    return Found({"queue_op_us_at_100k": median(ratios)}, raw)


def _time_apart_us(depth: int, steps: int) -> float:
    command = [sys.executable, "-m", "benchmark.queue_cost", str(depth), str(steps)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except subprocess.CalledProcessError as error:
        raise BenchError(f"the core failed: {str(error.stderr)[-400:]}") from error
    except subprocess.TimeoutExpired as error:
        raise BenchError(f"{steps} steps took more than {_TIMEOUT_S} s") from error
    return float(done.stdout)


class _Line:
    """A pool of one slot, taken, and the tasks that wait for it: some to be cancelled in the midst
    of the others, long before their turn."""

    def __init__(self, depth: int) -> None:
        queue = QueueConfig(interactive=2**40)
        pool = PoolConfig(id="bench", engine="llamacpp", model="any", slots=1, queue=queue)
        world = World(encode_event, time.monotonic, lambda: Outage("", None), lambda _: 0)
        self.core = Core(pool, world)
        self.core.open_slots("bench-0", 1)
        self._numbers = count()
        self._doomed: deque[Entry] = deque()
        self._admit()
        self._grant = self._take_grant()
        doomed = depth // 3
        for n in range(depth - doomed):
            if n >= depth - 2 * doomed:
                self._doomed.append(self._admit())
            self._admit()

    def step(self) -> None:
        """One is cancelled, one is served and the next has its turn, two come."""
        self.core.cancel(self._doomed.popleft(), "measured")
        self._doomed.append(self._admit())
        self.core.start(self._grant)
        self.core.end(self._grant, _DONE, 0.001)
        self.core.release(self._grant)
        self._grant = self._take_grant()
        self._admit()

    def _take_grant(self) -> Grant:
        (grant,) = self.core.take_todo().run
        return grant

    def _admit(self) -> Entry:
        task_id = f"task-{next(self._numbers)}"
        generation = Generation(prompt="Once", max_tokens=64)
        spec = TaskSpec(task_id, "bench", Priority.INTERACTIVE, None, generation)
        entry = self.core.admit(spec)
        assert isinstance(entry, Entry), entry
        return entry


def time_steps_us(depth: int, steps: int) -> float:
    """CPU time of one enqueue, cancel and dequeue, and the enqueue that makes up for the second who
    left, so many waiting before and after."""
    line = _Line(depth)
    before_ns = time.process_time_ns()
    for _ in range(steps):
        line.step()
    cpu_ns = time.process_time_ns() - before_ns
    assert line.core.depth(Priority.INTERACTIVE) == depth
    return cpu_ns / 1e3 / steps


if __name__ == "__main__":
    print(time_steps_us(int(sys.argv[1]), int(sys.argv[2])))

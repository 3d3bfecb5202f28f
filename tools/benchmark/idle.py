"""What a daemon costs that has nothing to do: one ready pool, nobody asks anything.

Its timers are left as they are: it looks at its GPUs and at its engines' CPU time every two
seconds, and for a driver that is not there every ten, so twenty have them all in it.
"""

from __future__ import annotations

import time

from benchmark.fake_engine import describe_pool
from benchmark.ground import BenchError, Found, Ground, run_daemon
from benchmark.kernel import read_cpu_ns, read_memory

_SETTLE_S = 1.0


def measure_idle(ground: Ground) -> Found:
    with run_daemon(ground, describe_pool(ground, slots=4, ctx=4096)) as stand:
        time.sleep(_SETTLE_S)
        before_ns, begun_s = read_cpu_ns(stand.pid), time.monotonic()
        if stand.child.has_exited_within(ground.scale.idle_s):
            raise BenchError("the daemon ended by itself")
        cpu_ns, span_s = read_cpu_ns(stand.pid) - before_ns, time.monotonic() - begun_s
        memory = read_memory(stand.pid)
    raw = {"idle_pss_mib": memory.pss_mib, "idle_cpu_ms": cpu_ns / 1e6, "span_s": span_s}
    figures = {"idle_rss_mib": memory.rss_mib, "idle_cpu_pct": cpu_ns / 1e7 / span_s}
    return Found(figures, raw)

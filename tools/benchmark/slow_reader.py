"""What one reader that takes nothing costs the others."""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from benchmark.fake_engine import describe_pool
from benchmark.ground import STREAMS, Found, Ground, run_daemon
from benchmark.kernel import read_cpu_ns
from benchmark.streams import Asked, DaemonSide, drive

_TEXT_CHARS = 4000
"""For a reader that reads nothing the kernel and uvloop take 1.7 MB (measured); a stream of 1000
such texts is more than twice that."""


def measure_slow_reader(ground: Ground) -> Found:
    """In turns, all healthy and one stalled; a side's throughput is that of one healthy reader."""
    asked = Asked(f"[text {_TEXT_CHARS}]", ground.scale.slow_tokens)
    spans_s: dict[int, list[float]] = {0: [], 1: []}
    cpus_us: dict[int, list[float]] = {0: [], 1: []}
    setup = replace(describe_pool(ground), retain_s=1.0)
    with run_daemon(ground, setup) as stand:
        side = DaemonSide(stand.port)
        drive(side, Asked("A warm-up.", 20), STREAMS)
        for round_number in range(ground.scale.slow_rounds):
            # Who goes first changes: the second finds the other's logs still in memory.
            for stalled in (0, 1) if round_number % 2 else (1, 0):
                before_ns = read_cpu_ns(stand.pid)
                load = drive(side, asked, STREAMS, stalled)
                cpus_us[stalled].append((read_cpu_ns(stand.pid) - before_ns) / 1e3 / load.tokens)
                spans_s[stalled].append(load.span_s)
    ratios = [healthy / stalled for healthy, stalled in zip(spans_s[0], spans_s[1], strict=True)]
    raw = {}
    for stalled, name in enumerate(("healthy", "beside_stalled")):
        raw[f"{name}_tokens_per_s_and_reader"] = asked.tokens / median(spans_s[stalled])
        raw[f"{name}_cpu_us_per_token"] = median(cpus_us[stalled])
    raw |= {"ratio_least": min(ratios), "ratio_most": max(ratios)}
    return Found({"slow_reader_cost": median(ratios)}, raw)

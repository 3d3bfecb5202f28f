"""The table: each figure with its bar, and the measurement that finds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmark.admission import measure_admission
from benchmark.bars import BARS
from benchmark.first_token import measure_first_token
from benchmark.ground import Found, Ground
from benchmark.idle import measure_idle
from benchmark.queue_cost import measure_queue
from benchmark.real_engine import measure_real_engine
from benchmark.relaying import measure_paced, measure_relay
from benchmark.slow_reader import measure_slow_reader
from benchmark.start import measure_start


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is found together."""

    name: str
    keys: tuple[str, ...]
    measure: Callable[[Ground], Found]


MEASUREMENTS = (
    Measurement("relay", ("relay_cpu_us_per_token", "relay_vs_naive"), measure_relay),
    Measurement(
        "paced",
        ("paced_cpu_us_per_token", "paced_vs_naive", "gap_overhead_ms_p99"),
        measure_paced,
    ),
    Measurement("first_token", ("ttft_overhead_ms_p50",), measure_first_token),
    Measurement("admission", ("admit_vs_h11",), measure_admission),
    Measurement("queue", ("queue_op_us_at_100k",), measure_queue),
    Measurement("idle", ("idle_rss_mib", "idle_cpu_pct"), measure_idle),
    Measurement("start", ("ready_ms",), measure_start),
    Measurement("slow_reader", ("slow_reader_cost",), measure_slow_reader),
    Measurement("real_engine", ("real_engine_efficiency",), measure_real_engine),
)

assert sorted(key for m in MEASUREMENTS for key in m.keys) == sorted(BARS)

"""What is good enough: the bar of each figure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Of one figure."""

    MET = "met"
    MISSED = "missed"
    FAILED = "could not be measured"
    UNASKED = "not asked for"


@dataclass(frozen=True, slots=True)
class Bar:
    """A bound that a figure keeps to from one side."""

    bound: float
    unit: str
    about: str
    is_least: bool = False
    """The figure is to be at least that; else at most."""

    def judge(self, figure: float) -> Verdict:
        is_met = figure >= self.bound if self.is_least else figure <= self.bound
        return Verdict.MET if is_met else Verdict.MISSED

    def __str__(self) -> str:
        return f"{'>=' if self.is_least else '<='} {self.bound:g}"


BARS = {
    "relay_cpu_us_per_token": Bar(20, "us", "daemon's CPU a token, 32 streams, unpaced"),
    "paced_cpu_us_per_token": Bar(50, "us", "the same at 50 tokens/s each"),
    "relay_vs_naive": Bar(0.5, "x", "the first over that of a FastAPI+httpx pass-through"),
    "paced_vs_naive": Bar(0.2, "x", "the second over that"),
    "ttft_overhead_ms_p50": Bar(2, "ms", "first token, less straight from the engine"),
    "gap_overhead_ms_p99": Bar(3, "ms", "from a token's emission to its arrival, 32 paced streams"),
    "admit_vs_h11": Bar(0.6, "x", "tasks admitted, over what h11 alone does", is_least=True),
    "queue_op_us_at_100k": Bar(1.5, "x", "a queue's steps at 100,000 waiting, over 100"),
    "idle_rss_mib": Bar(40, "MiB", "memory of an idle daemon, one ready pool"),
    "idle_cpu_pct": Bar(0.2, "%", "CPU of the same"),
    "ready_ms": Bar(300, "ms", "process start to listening socket"),
    "slow_reader_cost": Bar(0.95, "x", "31 readers beside a stalled one, over 32", is_least=True),
    "real_engine_efficiency": Bar(
        0.97, "x", "tokens/s, over straight from llama.cpp", is_least=True
    ),
}
"""By key, in the order of the table."""

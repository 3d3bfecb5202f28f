"""What one reader that takes nothing costs the others."""

from __future__ import annotations

from statistics import median

from benchmark.fake_engine import describe_pool
from benchmark.ground import STREAMS, Found, Ground, run_daemon
from benchmark.streams import Asked, DaemonSide, drive

_TEXT_CHARS = 2000
"""A stream of some thousand such texts is more than the kernel takes for a reader that reads nothing:
Linux lets a socket's buffer grow to 4 MiB (tcp_wmem)."""


def measure_slow_reader(ground: Ground) -> Found:
    """In turns, all healthy and one stalled; each side's throughput is that of one healthy reader."""
    asked = Asked(f"[text {_TEXT_CHARS}]", ground.scale.slow_tokens)
    spans_s: dict[int, list[float]] = {0: [], 1: []}
    with run_daemon(ground, describe_pool(ground)) as stand:
        side = DaemonSide(stand)
        drive(side, Asked("A warm-up.", 20), STREAMS)
        for round_number in range(ground.scale.slow_rounds):
            # Who goes first changes: the second finds the other's logs still in memory.
            for stalled in (0, 1) if round_number % 2 else (1, 0):
                spans_s[stalled].append(drive(side, asked, STREAMS, stalled).span_s)
    ratios = [healthy / stalled for healthy, stalled in zip(spans_s[0], spans_s[1], strict=True)]
    raw = {
        f"{name}_tokens_per_s_and_reader": asked.tokens / median(spans_s[stalled])
        for stalled, name in ((0, "healthy"), (1, "beside_stalled"))
    }
    return Found({"slow_reader_cost": median(ratios)}, raw)

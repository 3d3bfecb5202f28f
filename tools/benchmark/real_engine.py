"""What is left of the real engine's speed when the daemon is between."""

from __future__ import annotations

import os
from statistics import median

from demo_model import ensure_demo_model, find_cache_dir

from benchmark.ground import Found, Ground, Setup, run_daemon
from benchmark.streams import Asked, DaemonSide, EngineSide, Side, drive

_STREAMS = 4
_POOL = """\
# As the demo has it: threads that spin while they wait take the processors from whoever else runs,
# and one round differs from the next by more than what is measured here.
env = { OMP_WAIT_POLICY = "passive" }
"""


def measure_real_engine(ground: Ground) -> Found:
    """In turns through the daemon and straight to the same engine process, the same prompt of which
    it has everything in its cache."""
    setup = Setup(ensure_demo_model(find_cache_dir(os.environ)), _POOL, _STREAMS, 512)
    asked = Asked("Once upon a time", ground.scale.real_tokens, {"temperature": 0}, is_exact=False)
    with run_daemon(ground, setup) as stand:
        sides: tuple[Side, Side] = (DaemonSide(stand.port), EngineSide(stand.find_engine()))
        rates_per_s: tuple[list[float], list[float]] = ([], [])
        for side in sides:
            drive(side, asked, _STREAMS)
        for round_number in range(ground.scale.real_rounds):
            for n in (0, 1) if round_number % 2 else (1, 0):
                load = drive(sides[n], asked, _STREAMS)
                rates_per_s[n].append(load.tokens / load.span_s)
    through, straight = rates_per_s
    ratios = [a / b for a, b in zip(through, straight, strict=True)]
    raw = {"through_tokens_per_s": median(through), "straight_tokens_per_s": median(straight)}
    raw |= {"ratio_least": min(ratios), "ratio_most": max(ratios)}
    return Found({"real_engine_efficiency": median(ratios)}, raw)

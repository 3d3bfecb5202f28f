"""How much later the first token comes through the daemon than straight from the engine."""

from __future__ import annotations

from statistics import median

from benchmark.fake_engine import describe_pool
from benchmark.ground import Found, Ground, run_daemon
from benchmark.streams import Asked, DaemonSide, EngineSide, Side, drive

_ASKED = Asked("Say it.", 4)


def measure_first_token(ground: Ground) -> Found:
    """One stream at a time, in turns through the daemon and from the same engine process; a new
    connection for each task, its opening included."""
    through_ms, straight_ms = [], []
    with run_daemon(ground, describe_pool(ground)) as stand:
        daemon, engine = DaemonSide(stand.port), EngineSide(stand.find_engine())
        _time_one_ms(daemon)
        _time_one_ms(engine)
        for _ in range(ground.scale.first_tokens):
            through_ms.append(_time_one_ms(daemon))
            straight_ms.append(_time_one_ms(engine))
    overheads_ms = [a - b for a, b in zip(through_ms, straight_ms, strict=True)]
    raw = {"through_ms_p50": median(through_ms), "straight_ms_p50": median(straight_ms)}
    return Found({"ttft_overhead_ms_p50": median(overheads_ms)}, raw)


def _time_one_ms(side: Side) -> float:
    (story,) = drive(side, _ASKED, 1).stories
    return story.first_token_s(side) * 1000

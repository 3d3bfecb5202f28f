"""What a relayed token costs: the daemon in CPU time, the client in waiting.

Beside it the naive relay on the same engine, with the same client, in the same minute.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from loopback import EngineDoor

from benchmark.fake_engine import describe_pool, run_engine
from benchmark.figures import find_percentile
from benchmark.floors import run_pipe
from benchmark.ground import STREAMS, BenchError, Found, Ground, run_daemon
from benchmark.kernel import read_cpu_ns
from benchmark.naive import run_naive
from benchmark.streams import Asked, DaemonSide, EngineSide, Load, Side, drive

PACE_PER_S = 50
ENGINE_LEAD = 3
"""So many times faster than the daemon has an engine to be that measures the daemon."""


@dataclass(frozen=True, slots=True)
class _Party:
    """One side, and the process whose CPU time is its cost."""

    side: Side
    pid: int


@dataclass(frozen=True, slots=True)
class Cost:
    """One round's."""

    cpu_us: float
    """A token."""
    span_us: float
    """A token, on the wall's clock."""
    load: Load


def measure_cost(party: _Party, asked: Asked) -> Cost:
    """The whole path of each stream counts: its requests, its tokens, its end."""
    before_ns = read_cpu_ns(party.pid)
    load = drive(party.side, asked, STREAMS)
    cpu_ns = read_cpu_ns(party.pid) - before_ns
    return Cost(cpu_ns / 1e3 / load.tokens, load.span_s * 1e6 / load.tokens, load)


@contextlib.contextmanager
def _run_parties(ground: Ground) -> Iterator[dict[str, _Party]]:
    """The daemon, the naive relay, a bare pipe and the engine itself."""
    with (
        run_daemon(ground, describe_pool(ground)) as stand,
        run_engine(ground) as engine,
        run_naive(ground, engine.door) as naive,
        run_pipe(ground, engine.door) as pipe,
    ):
        parties = {
            "daemon": _Party(DaemonSide(stand.port), stand.pid),
            "naive": _Party(EngineSide(naive.door), naive.pid),
            "pipe": _Party(EngineSide(EngineDoor(pipe.port, engine.door.key)), pipe.pid),
            "engine": _Party(EngineSide(engine.door), engine.pid),
        }
        for party in parties.values():
            measure_cost(party, Asked("A warm-up.", 20))
        yield parties


def _measure_rounds(ground: Ground, asked: Asked, rounds: int) -> dict[str, list[Cost]]:
    with _run_parties(ground) as parties:
        # Checks on the measurement, not sides of it: once is enough.
        checks = ("pipe", "engine")
        costs = {name: [measure_cost(parties.pop(name), asked)] for name in checks}
        for _ in range(rounds):
            for name, party in parties.items():
                costs.setdefault(name, []).append(measure_cost(party, asked))
    return costs


def _median_of(costs: list[Cost], figure: Callable[[Cost], float]) -> float:
    return median(figure(cost) for cost in costs)


def measure_relay(ground: Ground) -> Found:
    """Unpaced: tokens arrive in bunches."""
    asked = Asked("Say it.", ground.scale.relay_tokens)
    costs = _measure_rounds(ground, asked, ground.scale.relay_rounds)
    cpu_us = {name: _median_of(costs[name], lambda cost: cost.cpu_us) for name in costs}
    span_us = {name: _median_of(costs[name], lambda cost: cost.span_us) for name in costs}
    if span_us["engine"] * ENGINE_LEAD > cpu_us["daemon"]:
        raise BenchError(
            f"the fake engine needs {span_us['engine']:.1f} us a token, the daemon"
            f" {cpu_us['daemon']:.1f}: it is not {ENGINE_LEAD} times faster, so this would measure"
            " the engine"
        )
    raw = {f"{name}_cpu_us_per_token": cpu_us[name] for name in ("naive", "pipe", "engine")}
    raw |= {f"{name}_tokens_per_s": 1e6 / span_us[name] for name in span_us}
    figures = {
        "relay_cpu_us_per_token": cpu_us["daemon"],
        "relay_vs_naive": cpu_us["daemon"] / cpu_us["naive"],
    }
    return Found(figures, raw)


def measure_paced(ground: Ground) -> Found:
    """Every token arrives alone, its text the time of its emission."""
    every_us = 1_000_000 // PACE_PER_S
    asked = Asked(f"[every {every_us}] [stamped]", ground.scale.paced_tokens)
    costs = _measure_rounds(ground, asked, ground.scale.paced_rounds)
    cpu_us = {name: _median_of(costs[name], lambda cost: cost.cpu_us) for name in costs}
    raw = {f"{name}_cpu_us_per_token": cpu_us[name] for name in ("naive", "pipe", "engine")}
    p99_ms = {}
    for name, rounds in costs.items():
        gaps_ms = [_list_gaps_ms(cost.load) for cost in rounds]
        p99_ms[name] = median(find_percentile(gaps, 99) for gaps in gaps_ms)
        raw[f"{name}_gap_ms_p50"] = median(find_percentile(gaps, 50) for gaps in gaps_ms)
        raw[f"{name}_gap_ms_p99"] = p99_ms[name]
        raw[f"{name}_gap_ms_max"] = max(max(gaps) for gaps in gaps_ms)
    figures = {
        "paced_cpu_us_per_token": cpu_us["daemon"],
        "paced_vs_naive": cpu_us["daemon"] / cpu_us["naive"],
        "gap_overhead_ms_p99": p99_ms["daemon"],
    }
    return Found(figures, raw)


def _list_gaps_ms(load: Load) -> list[float]:
    return [gap_ms for story in load.stories for gap_ms in story.list_gaps_ms()]

"""The benchmark's command line; tools/bench makes the environment that this runs in.

Exit status: 0 all bars are met, 1 one is missed, 2 something could not be measured, 128 and the
signal's number where a signal came before the end.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from daemon_child import Interrupted, raise_on_signals
from demo_model import DemoModelError, find_cache_dir, say
from demo_run import DemoError

import orchd
from benchmark.bars import BARS
from benchmark.ground import FULL, QUICK, BenchError, Ground, Scale
from benchmark.kernel import watch_noise
from benchmark.naive import REQUIREMENTS
from benchmark.report import Report
from benchmark.rows import MEASUREMENTS, Measurement
from orchd.errors import OrchdError

_PACKAGES = ("uvloop", "h11", "orjson", "xllamacpp")


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    raise_on_signals()
    scale = QUICK if options.quick else FULL
    asked = tuple(options.only or BARS)
    report = Report(describe_run(scale), asked)
    try:
        with tempfile.TemporaryDirectory(prefix="orchd-bench-") as folder:
            cache = find_cache_dir(os.environ) / "bench"
            measure_all(report, Ground(scale, cache, Path(folder)))
    except Interrupted as interrupted:
        say(f"bench: {interrupted}")
        return 128 + interrupted.number
    if options.json:
        print(json.dumps(report.to_json(), indent=2))
    else:
        print("\n".join(report.list_lines()))
    return report.exit_code


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/bench",
        description="Measures what the daemon costs, on a fake engine that is faster than any "
        "relay and, in the last row, the real one; each figure beside its bar. What a run builds "
        "(the fake engine, with cc) and fetches (FastAPI for a relay to compare with, the demo "
        "model) is kept in ~/.cache/orchd.",
        epilog="Exit status: 0 all bars met, 1 one missed, 2 something could not be measured.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    parser.add_argument(
        "--quick", action="store_true", help="all rows in less than a minute, with more noise"
    )
    parser.add_argument(
        "--only", nargs="+", choices=sorted(BARS), metavar="KEY", help="measure these figures only"
    )
    return parser


def describe_run(scale: Scale) -> dict[str, object]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES if _is_here(name)}
    return {
        "orchd": orchd.__version__,
        "python": platform.python_version(),
        **versions,
        "naive": " ".join(REQUIREMENTS),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "scale": "quick" if scale is QUICK else "full",
        "begun_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _is_here(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def measure_all(report: Report, ground: Ground) -> None:
    """One measurement after another; one that cannot be made leaves the others be."""
    for measurement in MEASUREMENTS:
        if not set(report.asked).isdisjoint(measurement.keys):
            say(f"measuring: {measurement.name}")
            measure_one(report, measurement, ground)


def measure_one(report: Report, measurement: Measurement, ground: Ground) -> None:
    name = measurement.name
    report.makers |= dict.fromkeys(measurement.keys, name)
    with watch_noise(ground.scale.look_s) as noise:
        try:
            found = measurement.measure(ground)
        except (BenchError, DemoError, DemoModelError, OrchdError, OSError) as fault:
            report.faults[name] = str(fault)
        else:
            report.figures |= found.figures
            report.raw[name] = dict(found.raw)
    report.noise[name] = noise


if __name__ == "__main__":
    sys.exit(main())

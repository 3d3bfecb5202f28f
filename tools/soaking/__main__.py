"""The soak's command line; tools/soak makes the environment that this runs in.

Exit status: 0 every invariant was kept, 1 one was broken, 2 it could not be run, 128 and the
signal's number where a signal came before the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from daemon_child import Interrupted, raise_on_signals
from demo_model import DemoModelError, say

from soaking.plot import draw_svg
from soaking.reloads import write_bad_models
from soaking.report import list_lines, list_series, to_json
from soaking.run import Soak
from soaking.world import make_world, run_daemon
from tests.fakes.planted import DEFECTS

SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    raise_on_signals()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    say(f"soak: seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="orchd-soak-"))
    # Where the soak itself breaks there is something to see too.
    is_kept = True
    try:
        soak = run(folder, seed, options.seconds, options.plant)
        is_kept = bool(soak.book.breaches)
    except Interrupted as interrupted:
        is_kept = False
        say(f"soak: {interrupted}")
        return 128 + interrupted.number
    except (DemoModelError, pytest.skip.Exception) as fault:
        # The latter is how the tests' fakes say that there is no compiler.
        is_kept = False
        say(f"soak: {fault}")
        return 2
    finally:
        if is_kept:
            say(f"soak: the daemon's log and the engines' journal are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    told = (seed, options.seconds, soak.book, soak.readings)
    if options.plot is not None:
        options.plot.write_text(draw_svg(list_series(soak.readings)))
    print(json.dumps(to_json(*told), indent=2) if options.json else "\n".join(list_lines(*told)))
    return 1 if soak.book.breaches else 0


def run(folder: Path, seed: int, seconds: float, planted: str | None) -> Soak:
    """A soak from the daemon's start to its end."""
    world = make_world(folder)
    write_bad_models(folder)
    with run_daemon(world, planted) as stand:
        soak = Soak(stand, seed, seconds)
        asyncio.run(soak.run())
        return soak


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/soak",
        description="Throws random faults at a daemon under load, on 127.0.0.1 alone: engines that "
        "die, hang and lie, cards that come and go, a disk that is full, clients of every kind. "
        "Between them it rests, and looks whether every promise was kept.",
        epilog="Exit status: 0 all kept, 1 one was broken (with the seed and the last steps), 2 it "
        "could not be run.",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=SECONDS,
        metavar="N",
        help="of faults (60); rests come on top",
    )
    parser.add_argument(
        "--seed", type=int, metavar="S", help="plans the same faults again; by default a new one"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw what was read at the rests"
    )
    parser.add_argument(
        "--plant",
        choices=sorted(DEFECTS),
        metavar="DEFECT",
        help="put a defect into the daemon, which the soak has to find: " + ", ".join(DEFECTS),
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

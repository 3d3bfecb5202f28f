"""The quickstart's command line; tools/quickstart makes the environment that this runs in.

Exit status: 0 done, 1 failed (one clear line on stderr), 2 a wrong command line, 128 and the
signal's number where a signal came before the answer.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from demo_run import Parts


def main(argv: Sequence[str] | None = None, parts: Parts | None = None) -> int:
    """Runs the demo, of its usual parts unless others are given."""
    options = build_parser().parse_args(argv)
    # Not before: --help is answered by a Python in which orchd is not installed yet.
    from daemon_child import Interrupted, raise_on_signals
    from demo_model import DemoModelError
    from demo_run import DemoError, Parts, run_demo

    from orchd.errors import OrchdError

    raise_on_signals()
    try:
        run_demo(options.once, options.port, parts or Parts(), os.environ)
    except BrokenPipeError:
        # Nobody reads the answer any more; Python would complain when it flushes at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return complain("nobody reads the answer")
    except (DemoError, DemoModelError, OrchdError, OSError) as fault:
        return complain(str(fault))
    except Interrupted as interrupted:
        complain(str(interrupted))
        return 128 + interrupted.number
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/quickstart",
        description="Makes .venv, fetches the demo model once, starts the daemon on it, asks it "
        "one question, prints the curl lines that do the same, and stays up until Ctrl-C.",
    )
    parser.add_argument(
        "--once",
        metavar="PROMPT",
        help="print the answer to PROMPT, and nothing else, on stdout; stop the daemon; exit 0",
    )
    parser.add_argument(
        "--port",
        type=read_port,
        metavar="N",
        help="listen on 127.0.0.1:N (default: 8642, or the next that is free)",
    )
    return parser


def read_port(text: str) -> int:
    port = int(text)
    if not 1 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is not a port (1 to 65535)")
    return port


def complain(problem: str) -> int:
    print(f"quickstart: {problem}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    # Until there is something to clean up, Ctrl-C just ends it: no traceback out of an import.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())

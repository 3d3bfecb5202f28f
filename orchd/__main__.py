"""Where ``orchd`` and ``python -m orchd`` begin."""

import signal

# Until a command runs, Ctrl-C just ends it: no traceback out of an import.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys  # noqa: E402

from orchd.cli import main  # noqa: E402


def run() -> int:
    """Run one command; returns its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(run())

"""What can be written behind ``orchd``: every command, its flags, its exit codes and an example."""

from __future__ import annotations

import argparse

from orchd import __version__
from orchd.logs import start as logs

WATCH_S = 2.0
"""How often ``orchd status --watch`` looks by default."""
_WATCH_LEAST_S, _WATCH_MOST_S = 0.1, 3600.0

_OVERVIEW = """\
orchd COMMAND --help tells each command's flags, its exit codes and an example.

The configuration is --config FILE, else $ORCHD_CONFIG, else ~/.config/orchd/orchd.toml, else
/etc/orchd/orchd.toml. The token is found by one rule by the daemon and by whoever asks it:
$ORCHD_API_TOKEN, else the configuration's [auth], else the one that the daemon made.

exit codes, of every command:
  0    done
  1    refused or failed, or the machine would not
  2    the configuration or the command line is at fault
  130  ended by Ctrl-C
"""
_SERVE = """\
exit codes:
  0    told to stop (SIGTERM, Ctrl-C), and stopped
  1    the machine refuses: a port that is taken, a folder that cannot be written
  2    the configuration or the command line is at fault

example:
  orchd serve --config ~/orchd.toml --log-level debug
"""
_CHECK = """\
exit codes:
  0    every replica would start
  1    one at least would not
  2    the configuration or the command line is at fault

example:
  orchd check && systemctl restart orchd
"""
_ASK = """\
Ctrl-C cancels the task. The answer goes to stdout, whatever is wrong to stderr in one line.

exit codes:
  0    answered
  1    refused or failed, or no daemon answers
  2    the configuration or the command line is at fault, or no token is found
  130  ended by Ctrl-C

examples:
  orchd ask --max-tokens 64 "Once upon a time"
  git diff | orchd ask --pool code --priority batch -
"""
_STATUS = """\
A bar has what is in use of a GPU's memory, what is promised to replicas beyond that, and what is
free. tokens/s is measured between two looks: a second apart while there is work, else at once.
What is written to a file or a pipe has neither bars nor colors, and $NO_COLOR is heeded.

exit codes:
  0    a pool can serve (ok, degraded); --watch was ended by Ctrl-C
  1    none can (starting, unavailable), or no daemon answers
  2    the configuration or the command line is at fault, or no token is found

examples:
  orchd status --watch
  until orchd status >/dev/null 2>&1; do sleep 1; done
"""


def build_parser() -> argparse.ArgumentParser:
    """Every command with its flags; ``command`` is the name of the one that was written."""
    parser = _describe(
        argparse.ArgumentParser(prog="orchd"),
        "A dependable local LLM service on one workstation.",
        _OVERVIEW,
    )
    parser.add_argument("--version", action="version", version=f"orchd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        described = f"{summary[0].upper()}{summary[1:]}."
        command = _describe(commands.add_parser(name, help=summary), described, epilog)
        command.add_argument("--config", metavar="FILE", help="the configuration file (TOML)")
        return command

    _add_serve(add("serve", "run the daemon in the foreground", _SERVE))
    _add_check(add("check", "say what serve would do, and start nothing", _CHECK))
    _add_ask(add("ask", "submit one task and stream its answer", _ASK))
    _add_status(add("status", "show how the daemon stands", _STATUS))
    return parser


def _describe(
    parser: argparse.ArgumentParser, description: str, epilog: str
) -> argparse.ArgumentParser:
    parser.description, parser.epilog = description, epilog
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _add_serve(serve: argparse.ArgumentParser) -> None:
    serve.add_argument(
        "--log-level",
        type=str.lower,
        choices=logs.LEVELS,
        help="how much is told on stderr (default: $ORCHD_LOG, else info); debug adds the engines'"
        " own output",
    )
    serve.add_argument(
        "--log-format",
        choices=logs.FORMATS,
        default="text",
        help="text for people and the journal, json for programs: one object a line",
    )


def _add_check(check: argparse.ArgumentParser) -> None:
    check.add_argument("--json", action="store_true", help="for programs: one object")


def _add_ask(ask: argparse.ArgumentParser) -> None:
    ask.add_argument("--pool", metavar="P", help="the pool's id, where there are several")
    ask.add_argument(
        "--priority",
        choices=("interactive", "batch"),
        help="which queue it waits in (default: interactive, which goes first)",
    )
    ask.add_argument(
        "--max-tokens", type=int, metavar="N", help="how long the answer may be (default: no bound)"
    )
    ask.add_argument("--seed", type=int, metavar="S", help="the same seed, the same answer")
    ask.add_argument("prompt", nargs="?", metavar="PROMPT", help="- or nothing: read stdin")


def _add_status(status: argparse.ArgumentParser) -> None:
    form = status.add_mutually_exclusive_group()
    form.add_argument(
        "--watch",
        type=_read_interval,
        nargs="?",
        const=WATCH_S,
        metavar="SECONDS",
        help=f"show it again every so often (default: {WATCH_S:g}), until Ctrl-C",
    )
    form.add_argument("--json", action="store_true", help="for programs: /health as it is")


def _read_interval(text: str) -> float:
    try:
        interval_s = float(text)
    except ValueError:
        interval_s = 0.0
    if not _WATCH_LEAST_S <= interval_s <= _WATCH_MOST_S:
        wanted = f"a number of seconds from {_WATCH_LEAST_S:g} to {_WATCH_MOST_S:g}"
        raise argparse.ArgumentTypeError(f"must be {wanted}, found {text}")
    return interval_s

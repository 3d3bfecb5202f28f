"""The command line: argv → serve, check or ask → an exit code.

Exit codes: 0 done; 1 refused, failed, no fit, or the machine would not; 2 the configuration or the
command line is at fault; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from orchd import __version__
from orchd.ask import Daemon, ask, read_prompt
from orchd.config.load import find_config, load_config
from orchd.config.model import AuthConfig, Config, ServerConfig
from orchd.config.token import discover_token, ensure_token
from orchd.engines.registry import ADAPTERS
from orchd.errors import ConfigurationError, NoConfigurationError, NoTokenError, OrchdError
from orchd.logs import start as logs

OK, FAILED, MISCONFIGURED, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; every fault that orchd itself names is one clear line on stderr."""
    options = build_parser().parse_args(argv)
    try:
        return int(options.run(options))
    except ConfigurationError as error:
        _complain(error)
        return MISCONFIGURED
    except OrchdError as error:
        _complain(error)
        return FAILED
    except BrokenPipeError:
        # Nobody reads on; Python would complain when it flushes at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def build_parser() -> argparse.ArgumentParser:
    """Every command with its flags."""
    parser = argparse.ArgumentParser(
        prog="orchd", description="A dependable local LLM service on one workstation."
    )
    parser.add_argument("--version", action="version", version=f"orchd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the daemon in the foreground")
    serve.set_defaults(run=_serve)
    checking = commands.add_parser("check", help="say what serve would do, and start nothing")
    checking.set_defaults(run=_check)
    asking = commands.add_parser("ask", help="submit one task and stream its answer")
    asking.set_defaults(run=_ask)
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
    for command in (serve, checking, asking):
        command.add_argument("--config", metavar="FILE", help="the configuration file (TOML)")

    checking.add_argument("--json", action="store_true", help="for programs")
    asking.add_argument("--pool", metavar="P", help="the pool's id, where there are several")
    asking.add_argument("--priority", choices=("interactive", "batch"))
    asking.add_argument("--max-tokens", type=int, metavar="N")
    asking.add_argument("--seed", type=int, metavar="S")
    asking.add_argument("prompt", nargs="?", metavar="PROMPT", help="- or nothing: read stdin")
    return parser


def _load(explicit: str | None) -> Config:
    rules = {name: adapter.find_faults for name, adapter in ADAPTERS.items()}
    return load_config(find_config(explicit, os.environ), os.environ, rules)


def _serve(options: argparse.Namespace) -> int:
    # The daemon's rooms are not loaded for a mere question.
    from orchd import daemon

    config = _load(options.config)
    level = logs.choose_level(options.log_level, os.environ)
    with logs.logging_to_stderr(level, options.log_format, os.environ):
        daemon.serve(config, ensure_token(config.auth, os.environ))
    return OK


def _check(options: argparse.Namespace) -> int:
    from orchd import check

    try:
        config = _load(options.config)
        with contextlib.suppress(NoTokenError):
            if (warning := discover_token(config.auth, os.environ).warning) is not None:
                print(f"orchd: {warning}", file=sys.stderr)
    except ConfigurationError as error:
        if not options.json:
            raise
        check.write_faults_as_json(error, sys.stdout)
        return MISCONFIGURED
    forecast = check.forecast(config, ADAPTERS)
    if check.is_answered(config.server.listen):
        note = (
            "is taken already, by a running orchd perhaps: serve could not listen there, and what"
            " its engines hold counts as other programs'"
        )
        print(f"orchd: {config.server.listen} {note}", file=sys.stderr)
    (check.write_json if options.json else check.write_text)(forecast, sys.stdout)
    return OK if forecast.is_good else FAILED


def _ask(options: argparse.Namespace) -> int:
    try:
        config = _load(options.config)
        server, auth = config.server, config.auth
    except NoConfigurationError:
        # A client needs none: it asks where a daemon listens by default.
        server, auth = ServerConfig(), AuthConfig()
    token = discover_token(auth, os.environ)
    task = {
        "prompt": read_prompt(options.prompt),
        "pool_id": options.pool,
        "priority": options.priority,
        "max_tokens": options.max_tokens,
        "seed": options.seed,
    }
    given = {name: value for name, value in task.items() if value is not None}
    ask(Daemon(server.listen, token), given, sys.stdout)
    print()
    return OK


def _complain(error: OrchdError) -> None:
    try:
        print(f"orchd: {error}", file=sys.stderr)
    except OSError:
        # The exit code tells it too; Python would spoil that when it flushes at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

"""The command line: argv → serve, check, ask or status → an exit code.

Exit codes: 0 done; 1 refused, failed, no fit, or the machine would not; 2 the configuration or the
command line is at fault; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, assert_never

from orchd.command_line import build_parser
from orchd.config.listen import AnyListen, Listen, warn_of_exposure
from orchd.config.load import find_config, load_config
from orchd.config.model import AuthConfig, Config, ServerConfig
from orchd.config.token import discover_token, ensure_token
from orchd.descriptors import fill_standard_descriptors
from orchd.engines.registry import ADAPTERS
from orchd.errors import (
    AddressTakenError,
    ConfigurationError,
    HostError,
    NoConfigurationError,
    NoTokenError,
    OrchdError,
)
from orchd.logs import start as logs
from orchd.logs.line import escape

if TYPE_CHECKING:
    from orchd.client import Answerer, Daemon

OK, FAILED, MISCONFIGURED, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; every fault that orchd itself names is one clear line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not words:
        parser.print_help(sys.stderr)
        return MISCONFIGURED
    if words[0] == "help":
        words = [*words[1:], "--help"]
    options = parser.parse_args(words)
    fill_standard_descriptors()
    try:
        return _COMMANDS[options.command](options)
    except ConfigurationError as error:
        _complain(error)
        return MISCONFIGURED
    except OrchdError as error:
        _complain(error)
        return FAILED
    except BrokenPipeError:
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


@dataclass(frozen=True, slots=True)
class _Place:
    """A configuration, and the file that it stands in."""

    config: Config
    file: Path


def _load(explicit: str | None) -> _Place:
    rules = {name: adapter.find_faults for name, adapter in ADAPTERS.items()}
    file = find_config(explicit, os.environ)
    return _Place(load_config(file, os.environ, rules), file)


def _find_daemon(explicit: str | None) -> tuple[AnyListen, Callable[[], Daemon]]:
    """Where a daemon listens, and how to speak to it; the token is looked for at each call."""
    from orchd.client import Daemon

    try:
        place = _load(explicit)
        server, auth, file = place.config.server, place.config.auth, place.file
    except NoConfigurationError:
        # A client needs none: it asks where a daemon listens by default.
        server, auth, file = ServerConfig(), AuthConfig(), None
    return server.listen, lambda: Daemon(server.listen, discover_token(auth, os.environ, file))


def _serve(options: argparse.Namespace) -> int:
    # The daemon's rooms are not loaded for a mere question, nor the client's for a daemon.
    from orchd import daemon

    place = _load(options.config)
    config = place.config
    level = logs.choose_level(options.log_level, os.environ)
    try:
        with logs.logging_to_stderr(level, options.log_format, os.environ):
            daemon.serve(config, ensure_token(config.auth, os.environ, place.file))
    except AddressTakenError as error:
        from orchd.client import recognise

        listen = config.server.listen
        raise HostError(f"{error}; {_tell_who_listens(listen, recognise(listen))}") from error
    return OK


def _check(options: argparse.Namespace) -> int:
    from orchd import check

    try:
        place = _load(options.config)
        config, listen = place.config, place.config.server.listen
        with contextlib.suppress(NoTokenError):
            _warn(discover_token(config.auth, os.environ, place.file).warning)
    except ConfigurationError as error:
        if not options.json:
            raise
        with _answering() as out:
            check.write_faults_as_json(error, out)
        return MISCONFIGURED
    _warn(warn_of_exposure(listen, str(listen)))
    for pool in config.pools:
        for risk in ADAPTERS[pool.engine].find_risks(pool):
            _warn(f"pool {pool.id}: {risk}")
    forecast = check.forecast(config, ADAPTERS)
    _warn(_warn_of_obstacle(listen))
    with _answering() as out:
        (check.write_json if options.json else check.write_text)(forecast, out)
    return OK if forecast.is_good else FAILED


def _ask(options: argparse.Namespace) -> int:
    from orchd.ask import ask, read_prompt

    with _answering() as out:
        _, connect = _find_daemon(options.config)
        daemon = connect()
        task = {
            "prompt": read_prompt(options.prompt),
            "pool_id": options.pool,
            "priority": options.priority,
            "max_tokens": options.max_tokens,
            "seed": options.seed,
        }
        ask(daemon, {name: value for name, value in task.items() if value is not None}, out)
    return OK


def _status(options: argparse.Namespace) -> int:
    from orchd.status import screen

    listen, connect = _find_daemon(options.config)

    def look() -> dict[str, Any]:
        return screen.look(connect())

    with _answering() as out:
        shown = screen.Screen(out, os.environ)
        if options.watch is not None:
            try:
                screen.watch(look, str(listen), shown, options.watch)
            except KeyboardInterrupt:
                out.write("\n")
                return OK
        elif options.json:
            can_serve = screen.show_json(look, out)
        else:
            can_serve = screen.show_once(look, str(listen), shown)
    return OK if can_serve else FAILED


_COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "check": _check,
    "ask": _ask,
    "status": _status,
}


# -- telling it --------------------------------------------------------------------------------


def _warn_of_obstacle(listen: AnyListen) -> str | None:
    """Why serve could not listen there, where that can be told beforehand."""
    from orchd.client import Answerer, recognise

    match who := recognise(listen):
        case Answerer.NOBODY:
            return None
        case Answerer.ELSEWHERE:
            mend = "serve could not listen there; ip address lists those it has"
            return f"{listen} is no address of this machine, and {mend}"
        case Answerer.ORCHD | Answerer.STRANGER:
            return (
                f"{listen} is taken already, and serve could not listen there:"
                f" {_tell_who_listens(listen, who)}; what engines of a running daemon hold counts"
                " as other programs'"
            )
        case _:
            assert_never(who)


def _tell_who_listens(listen: AnyListen, who: Answerer) -> str:
    """Who has the address, as far as can be told, and what to do about it."""
    from orchd.client import Answerer

    if who is Answerer.ORCHD:
        return "it is an orchd (orchd status shows it); a second one needs a listen of its own"
    mend = "end it, or write another listen in [server]"
    if isinstance(listen, Listen):
        return f"ss -ltnp 'sport = :{listen.port}' shows which; {mend}"
    return mend


@contextlib.contextmanager
def _answering() -> Iterator[TextIO]:
    """stdout for an answer. Where that cannot be written the command ends in a clear line, or in
    none where nobody reads on."""
    if sys.stdout is None:  # closed, and /dev/null by now
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        # A terminal that shows less than UTF-8 is no reason to fail.
        out.reconfigure(errors="backslashreplace")
    try:
        yield out
        out.flush()
    except OSError as error:
        _silence(out)
        if isinstance(error, BrokenPipeError):
            raise
        raise HostError(f"cannot write to stdout: {error.strerror}") from error


def _silence(stream: TextIO) -> None:
    """Python would complain when it flushes at the exit, and spoil the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _warn(warning: str | None) -> None:
    if warning is not None:
        _say(warning)


def _complain(error: OrchdError) -> None:
    _say(str(error))


def _say(text: str) -> None:
    if sys.stderr is None:
        return  # closed; print would take stdout for it
    try:
        print(f"orchd: {escape(text, kept=chr(10))}", file=sys.stderr)
    except OSError:
        # The exit code tells it too.
        _silence(sys.stderr)

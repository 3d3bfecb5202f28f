"""Sets logging up: how much is told, in which form, and through which thread.

Invariant: a log that cannot be written never ends or holds up the daemon.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from orchd.errors import ConfigurationError, Fault
from orchd.logs.line import Event, read_fields, write_journal, write_json, write_text
from orchd.logs.writer import LineWriter

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")

_FLUSH_S = 2.0
"""How long the end waits for the last lines, where nobody takes them."""

_Write = Callable[[Event, float], bytes]
"""Makes the lines of an event, and of when it was on the wall clock."""


def choose_level(asked: str | None, environ: Mapping[str, str]) -> str:
    """What the command line asks for, else ``ORCHD_LOG``, else ``info``.

    Raises ConfigurationError where the variable names no level.
    """
    level = asked or environ.get("ORCHD_LOG") or "info"
    if level.lower() not in LEVELS:
        problem = f"no level is called {level}; write {', '.join(LEVELS[:-1])} or {LEVELS[-1]}"
        raise ConfigurationError([Fault("", problem)], "ORCHD_LOG")
    return level.upper()


@contextlib.contextmanager
def logging_to_stderr(
    level: str, form: str, environ: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """Log for as long as the ``with`` lasts, whose end waits a moment for the last lines.

    ``level`` is one that ``choose_level`` gave, ``form`` one of ``FORMATS``.
    """
    if sys.stderr is None:
        # Closed by whoever started us: its number may be a socket's by now.
        yield
        return
    descriptor = sys.stderr.fileno()
    handler = _Handler(descriptor, _choose_write(form, descriptor, environ))
    root = logging.getLogger()
    before = root.level
    root.setLevel(level)
    root.addHandler(handler)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(before)
        handler.finish()
        handler.close()


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """True where systemd connected this very file to its journal.

    The variable is inherited by whoever we are started from (systemd.exec(5), ``JOURNAL_STREAM``).
    """
    found = os.fstat(descriptor)
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


class _Handler(logging.Handler):
    """Makes each record's line where it is logged, and leaves the writing to the writer."""

    def __init__(self, descriptor: int, write: _Write) -> None:
        super().__init__()
        self._write = write
        self._writer = LineWriter(descriptor, self._explain_loss)

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.put(self._render(record))

    def finish(self) -> None:
        """Not ``close``: Python may call that once more at the exit, and would wait again."""
        self._writer.close(_FLUSH_S)

    def _render(self, record: logging.LogRecord) -> bytes:
        try:
            return self._write(_read_event(record), record.created)
        except Exception:
            # Logging's own way out writes to stderr, and so may block.
            message = f"a log call failed at {record.pathname}:{record.lineno}"
            event = Event("ERROR", record.name, message, {}, traceback.format_exc())
            return self._write(event, record.created)

    def _explain_loss(self, what: str) -> bytes:
        return self._write(Event("WARNING", __name__, what, {}), time.time())


def _read_event(record: logging.LogRecord) -> Event:
    arguments = record.args if isinstance(record.args, tuple) else ()
    trace = ""
    if record.exc_info and record.exc_info[0] is not None:
        trace = "".join(traceback.format_exception(*record.exc_info))
    fields = read_fields(str(record.msg), arguments)
    return Event(record.levelname, record.name, record.getMessage(), fields, trace)


def _choose_write(form: str, descriptor: int, environ: Mapping[str, str]) -> _Write:
    if form == "json":
        return lambda event, at: write_json(event, _stamp_utc(at))
    if is_journal(descriptor, environ):
        return lambda event, at: write_journal(event)
    return lambda event, at: write_text(event, _stamp_local(at))


def _stamp_local(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")


def _stamp_utc(at: float) -> str:
    stamp = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
    return f"{stamp.isoformat(timespec='milliseconds')}Z"

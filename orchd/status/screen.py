"""Shows how a daemon stands: once, or again and again in the same place.

Nothing of a terminal is changed that would have to be put back: whatever ends this, the last table
stays where it is and the shell's prompt comes under it.
"""

from __future__ import annotations

import http.client
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from orchd.client import Daemon
from orchd.errors import OrchdError
from orchd.logs.line import escape
from orchd.status.cells import Style, indent
from orchd.status.standing import Standing, measure_rates, read_standing
from orchd.status.table import cut_to_height, draw

_LOOK_TIMEOUT_S = 10.0
"""It answers at once, from memory."""
_LOOK_AGAIN_S = 1.0
"""Between the two looks that one table takes while there is work: a count alone has no speed."""
_COLUMNS_LEAST = 20
"""A terminal that is narrower wraps."""
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"

Look = Callable[[], dict[str, Any]]
"""What /health says now. Raises OrchdError where nobody says anything."""


def look(daemon: Daemon) -> dict[str, Any]:
    """Ask once. Raises RefusedError, HostError."""
    with daemon.request("GET", "/health", timeout_s=_LOOK_TIMEOUT_S) as response:
        return daemon.read_json(response, http.client.OK, http.client.SERVICE_UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class Screen:
    """Where it is shown, and what that can show."""

    out: TextIO
    environ: Mapping[str, str]
    now_s: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @property
    def is_live(self) -> bool:
        """Whether lines can be written over."""
        return self.out.isatty() and self.environ.get("TERM", "dumb") != "dumb"

    def style(self) -> Style:
        """As wide as it is now."""
        if not self.out.isatty():
            return Style()
        columns = max(shutil.get_terminal_size().columns, _COLUMNS_LEAST)
        has_color = self.is_live and not self.environ.get("NO_COLOR")
        return Style(columns, has_color, _can_encode(self.out, "█▒░…"))

    def write(self, lines: Sequence[str]) -> None:
        self.out.write("".join(f"{line}\n" for line in lines))
        self.out.flush()

    def write_over(self, lines: Sequence[str]) -> None:
        """Put them in place of whatever the screen shows."""
        text = f"{_REST_OF_LINE}\n".join(lines)
        self.out.write(f"{_HOME}{text}{_REST_OF_SCREEN}")
        self.out.flush()


def show_json(ask: Look, out: TextIO) -> bool:
    """/health as it is, in one object; True where a pool can serve."""
    body = ask()
    json.dump(body, out, indent=2)
    out.write("\n")
    return read_standing(body).can_serve


def show_once(ask: Look, where: str, screen: Screen) -> bool:
    """One table; True where a pool can serve."""
    standing, looked_s = read_standing(ask()), screen.now_s()
    rates = measure_rates(None, standing, 0)
    if standing.is_busy:
        screen.sleep(_LOOK_AGAIN_S)
        before, standing = standing, read_standing(ask())
        rates = measure_rates(before, standing, screen.now_s() - looked_s)
    screen.write(draw(standing, rates, where, screen.style()))
    return standing.can_serve


def watch(ask: Look, where: str, screen: Screen, interval_s: float) -> None:
    """A table every so often, until Ctrl-C; a daemon that is not there is waited for."""
    before: Standing | None = None
    looked_s = 0.0
    while True:
        style = screen.style()
        try:
            standing, now_s = read_standing(ask()), screen.now_s()
        except OrchdError as error:
            before = None
            lines = [f"orchd on {where}: no answer, waiting for one", ""]
            for line in str(error).splitlines():
                lines += indent(escape(line), style)
        else:
            lines = draw(standing, measure_rates(before, standing, now_s - looked_s), where, style)
            before, looked_s = standing, now_s
        _show(lines, screen, style, interval_s)
        screen.sleep(interval_s)


def _show(lines: Sequence[str], screen: Screen, style: Style, interval_s: float) -> None:
    if not screen.is_live:
        screen.write([*lines, ""])
        return
    rows = shutil.get_terminal_size().lines
    told = indent(f"every {interval_s:g} s, Ctrl-C ends it", style)
    screen.write_over([*cut_to_height(lines, max(rows - len(told) - 1, 1), style), "", *told])


def _can_encode(out: TextIO, text: str) -> bool:
    try:
        text.encode(out.encoding or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True

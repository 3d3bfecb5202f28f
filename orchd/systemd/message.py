"""The protocol of sd_notify(3) as values: where to speak, how often to be heard, what a message is.

Invariant: a value is one line of valid UTF-8. What an engine said goes into a STATUS, and must not
become a field of its own there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_VALUE_CHARS = 500
"""The service manager takes 4096 bytes a message, and a person reads one line."""


def find_address(environ: Mapping[str, str]) -> bytes | None:
    """The address of the socket to speak to; None where nobody listens, or not on a unix socket."""
    named = environ.get("NOTIFY_SOCKET", "")
    path = named.encode("utf-8", "surrogateescape")
    match named[:1]:
        case "/":
            return path
        case "@":
            return b"\0" + path[1:]  # an abstract one, see unix(7)
        case _:
            return None


def find_watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Within which span the process of that pid is to be heard of; None where it need not be.

    The variables are inherited: with a pid that is another's they are none of ours.
    """
    span_us, whose = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not span_us.isdecimal() or int(span_us) == 0 or whose not in ("", str(pid)):
        return None
    return int(span_us) / 1_000_000


def encode(fields: Mapping[str, str]) -> bytes:
    """One datagram."""
    lines = (f"{name}={_make_line(value)}" for name, value in fields.items())
    return "\n".join(lines).encode("utf-8", "backslashreplace")


def _make_line(text: str) -> str:
    line = _CONTROLS.sub(" ", text)
    return line if len(line) <= _VALUE_CHARS else line[: _VALUE_CHARS - 1] + "…"

"""Ends what is left of the engines of daemons that are gone, by the records they left.

Invariant: nothing of a daemon that lives is touched, nor of one whose numbers mean nothing here.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

from orchd.runner.engine_record import Name, Record, read_name, read_record
from orchd.runner.remains import find_remains, is_there, kill_all

HANDOVER_S = 3.0
"""How long the guardian of a daemon that is gone may take before its work is done for it."""
_KILL_S = 5.0
_PIDS_TOLD = 20


def sweep(
    folder: Path, own: Record, tell: Callable[..., None], is_closing: Callable[[], bool]
) -> None:
    """Look at every record in the folder but those of daemons that live.

    Raises OSError where the folder cannot be read; a record of which that is so is told of.
    """
    handover_until_s = time.monotonic() + HANDOVER_S
    for path in sorted(folder.iterdir()):
        if is_closing():
            return
        name = read_name(path.name)
        if name is None or is_there(name.daemon_pid, name.daemon_start):
            continue
        try:
            if name.is_draft:
                path.unlink()
            else:
                _sweep_one(path, name, own, tell, handover_until_s)
        except FileNotFoundError:
            pass  # its own guardian was quicker
        except OSError as error:
            tell(f"could not sweep by {path}: {error.strerror}")


def _sweep_one(
    path: Path, name: Name, own: Record, tell: Callable[..., None], handover_until_s: float
) -> None:
    record = read_record(path)
    if record is None:
        tell(f"found a record of engines that is damaged, and removed it: {path}")
    elif record.boot != own.boot:
        path.unlink()
        return
    elif record.pid_namespace != own.pid_namespace:
        return
    else:
        _wait_for_guardian(record.guardian, handover_until_s)
    sessions = {} if record is None else record.sessions
    mark = name.mark.encode()
    killed, is_clear = kill_all(lambda: find_remains(sessions, mark, is_fresh=False), _KILL_S)
    if killed:
        tell("swept", name.daemon_pid, len(killed), *killed[:_PIDS_TOLD])
    if is_clear:
        path.unlink()
    else:
        tell(f"could not end all that is left of the engines in {path}")


def _wait_for_guardian(guardian: tuple[int, int], until_s: float) -> None:
    """Until it has done its work and is gone; one that does not go is ended."""
    try:
        handle = os.pidfd_open(guardian[0])
    except (OSError, OverflowError):
        return
    try:
        if is_there(*guardian):
            left_s = max(until_s - time.monotonic(), 0.0)
            if not select.select([handle], [], [], left_s)[0]:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
    finally:
        os.close(handle)

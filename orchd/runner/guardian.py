"""Ends what is left of a daemon's engines once that daemon is gone, in whatever way it went.

A script of its own for each daemon, run as ``python -I -S guardian.py DAEMON_PID DAEMON_START MARK
[FOLDER]``. Its input is a pipe that only the daemon holds open, and each tether until it becomes an
engine: where the pipe ends, the daemon is gone. Lines in: ``began PID START TAG``, ``ended PID``
and ``ended PID late``, whose number may since have come round.
Lines out: ``clear PID``, ``swept DAEMON_PID COUNT PID ...``, ``ready``; any other is for the log.
FOLDER is where the records are; without one there is no sweep.

Invariant: the main thread never touches a disk, so that one that hangs cannot hold up a kill.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    # Isolated as it runs, it finds its siblings by this alone; behind the standard library.
    sys.path.append(str(Path(__file__).parents[2]))

from orchd.runner.engine_record import Name, make_record, write_record
from orchd.runner.remains import find_members, find_remains, kill_all
from orchd.runner.sweep import sweep

_KILL_S = 5.0
_KILL_ONE_S = 2.0
_CLOSE_S = 4.0


def say(*words: object) -> None:
    """Tell the daemon, if it is there."""
    line = " ".join(str(word) for word in words).replace("\n", " ")
    with contextlib.suppress(OSError):
        os.write(1, line.encode(errors="backslashreplace") + b"\n")


class Keeper:
    """The thread that has to do with the disk: it sweeps once, then keeps our record."""

    def __init__(self, path: Path | None, sessions: Callable[[], Mapping[int, int]]) -> None:
        self._path = path
        self._sessions = sessions
        self._news = threading.Event()
        self._is_closing = False
        self._has_complained = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def note(self) -> None:
        """The sessions are others now."""
        self._news.set()

    def close(self) -> None:
        """Remove the record, unless a session is left in it or the disk does not answer."""
        self._is_closing = True
        self._news.set()
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        if self._path is None:
            say("ready")
            return
        # Before the sweep: what begins while that lasts is to be found as well.
        self._try(self._write, self._path)
        self._try(self._sweep, self._path)
        say("ready")
        while not self._is_closing:
            self._news.wait()
            self._news.clear()
            self._try(self._write, self._path)
        if not self._sessions():
            self._try(partial(Path.unlink, missing_ok=True), self._path)

    def _try(self, work: Callable[[Path], None], path: Path) -> None:
        try:
            work(path)
        except OSError as error:
            if not self._has_complained:
                self._has_complained = True
                say(f"cannot keep a record of engines in {path.parent}: {error.strerror or error}")

    def _write(self, path: Path) -> None:
        write_record(path, make_record(self._sessions()))

    def _sweep(self, path: Path) -> None:
        sweep(path.parent, make_record({}), say, lambda: self._is_closing)


class Guardian:
    """The main thread: hears of engines, and ends what they leave."""

    def __init__(self, mark: bytes, path: Path | None) -> None:
        self._mark = mark
        self._starts: dict[int, int] = {}
        self._tags: dict[int, bytes] = {}
        self._keeper = Keeper(path, self._starts.copy)

    def watch(self) -> None:
        """Hear the daemon out; returns when it and all that it left are gone."""
        rest = b""
        while data := os.read(0, 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._hear(line)
            self._keeper.note()
        starts, mark = self._starts, self._mark
        kill_all(lambda: find_members(starts), _KILL_S)
        if kill_all(lambda: find_remains(starts, mark, is_fresh=True), _KILL_S)[1]:
            starts.clear()
        self._keeper.close()

    def _hear(self, line: bytes) -> None:
        match line.split():
            case [b"began", pid, start, tag]:
                self._starts[int(pid)], self._tags[int(pid)] = int(start), tag
            case [b"ended", pid, *late]:
                self._clear(int(pid), is_fresh=not late)
            case _:
                say("heard what it does not understand")

    def _clear(self, pid: int, *, is_fresh: bool) -> None:
        """End what is left of an engine that has ended."""
        if (start := self._starts.get(pid)) is not None:
            session, tag = {pid: start}, self._tags[pid]
            find = partial(find_remains, session, tag, is_fresh=is_fresh)
            _, is_clear = kill_all(find, _KILL_ONE_S)
            if not is_clear:
                # It stays on the record, and is tried again when the daemon goes.
                say(f"could not end all that is left of the engine pid={pid}")
                return
            del self._starts[pid], self._tags[pid]
        say("clear", pid)


def main() -> None:
    """Outlive what ends a terminal's or a service's processes, until the daemon is gone."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    daemon_pid, daemon_start, mark, *folder = sys.argv[1:]
    name = Name(int(daemon_pid), int(daemon_start), mark)
    Guardian(mark.encode(), Path(folder[0], str(name)) if folder else None).watch()
    # Without the thread, whose disk may never answer.
    os._exit(0)


if __name__ == "__main__":
    main()

"""A listening unix socket at a path: claimed, readable and writable by its owner alone, given back.

Invariants: a path is taken over only from a socket on which nobody listens any more, and is removed
only while it is still the socket that was made here; nothing else is ever touched.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from orchd.errors import AddressTakenError, HostError

_OWNER_ONLY = 0o600


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """It listens, until whoever took ``socket`` over closes that."""

    path: Path
    socket: socket.socket
    identity: tuple[int, int]
    """Device and inode of the file at ``path``."""

    def unlink(self) -> None:
        """Remove the file, unless another one stands there now."""
        with contextlib.suppress(OSError):
            if _identify(self.path) == self.identity:
                self.path.unlink()


def open_unix_socket(path: Path, backlog: int) -> UnixSocket:
    """Bind and listen. Raises HostError where the path is another's, OSError as the kernel says."""
    with _locked(path.parent), contextlib.ExitStack() as undo:
        listener = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        # The file gets the mode of the socket: no moment in which it has another, and no umask,
        # which is the whole process's and not ours to change.
        os.fchmod(listener.fileno(), _OWNER_ONLY)
        try:
            listener.bind(bytes(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            listener.bind(bytes(path))
        listener.listen(backlog)
        unix_socket = UnixSocket(path, listener, _identify(path))
        undo.pop_all()
        return unix_socket


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time: of two that find the same stale socket, the later removed the other's new one.

    What is bound and does not listen yet looks stale too.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise HostError(f"another program has {folder} locked; try again") from error
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise HostError("a file stands there that is no socket; move it, or listen elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(bytes(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        # Too many wait to be accepted, or it is a socket of another kind: somebody has it.
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
    raise AddressTakenError("another program already listens there")


def _identify(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino

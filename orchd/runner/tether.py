"""Ties a process to its parent's life, then becomes the given command.

A script, run as ``python -I -S tether.py PARENT_PID COMMAND ...``: the kernel kills it when the
thread that started it ends (prctl(2), PR_SET_PDEATHSIG), and that wish survives execve(2). Doing
so here, not between fork and exec in the daemon, keeps the daemon's own fork free of Python code.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the wish, make sure that it did not come too late, and exec."""
    parent_pid, command = int(sys.argv[1]), sys.argv[2:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"tether: prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("tether: the parent is gone already")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"tether: cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()

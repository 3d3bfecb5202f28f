"""Ties a process to its parent's life, tells the guardian of it, then becomes the given command.

A script, run as ``python -I -S tether.py PARENT_PID PIPE COMMAND ...``: the kernel kills it when
the thread that started it ends (prctl(2), PR_SET_PDEATHSIG), and that wish survives execve(2).
Doing so here, not between fork and exec in the daemon, keeps the daemon's own fork free of Python
code.

PIPE is the descriptor on which the guardian listens, or empty. No engine runs that has not been
told of there, and none inherits it: the guardian takes its end for the end of the daemon.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Set the wish, make sure that it did not come too late, tell of it, and exec."""
    parent_pid, pipe, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"tether: prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:
        sys.exit("tether: the parent is gone already")
    if pipe:
        tell_guardian(int(pipe))
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"tether: cannot run {command[0]}: {error.strerror}")


def tell_guardian(pipe: int) -> None:
    """Say that an engine begins here; where nobody listens any more, the daemon says it again."""
    # proc_pid_stat(5): field 22 is the start; what follows the name in parentheses is the third.
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    line = f"began {os.getpid()} {start} {os.environ['ORCHD_ENGINE']}\n"
    while True:
        try:
            os.write(pipe, line.encode())
        except BlockingIOError:
            # The daemon does not wait for the guardian, so the pipe does not; we have the time.
            # select(2) would end at 1024 descriptors, of which the daemon may have far more.
            poll = select.poll()
            poll.register(pipe, select.POLLOUT)
            poll.poll()
            continue
        except BrokenPipeError:
            pass
        break
    os.close(pipe)


if __name__ == "__main__":
    main()

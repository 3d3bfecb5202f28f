"""What the kernel tells of a process and its descendants."""

from __future__ import annotations

import os
import subprocess
import sys

from orchd.runner.process_tree import list_tree, read_computed_s, read_resident_bytes

_PROGRAM = """
import os, sys
child = os.fork()
total = sum(n * n for n in range({child} if not child else {parent}))
if not child:
    os._exit(0) if {ends} else None
else:
    os.waitpid(child, 0) if {ends} else None
    print(child, flush=True)
sys.stdin.read()
"""


def run(child: int, parent: int, *, ends: bool) -> subprocess.Popen[str]:
    program = _PROGRAM.format(child=child, parent=parent, ends=ends)
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_tree_is_a_process_and_all_below_it() -> None:
    with run(0, 0, ends=False) as process:
        assert process.stdout is not None and process.stdin is not None
        child = int(process.stdout.readline())
        assert list_tree(process.pid) == [process.pid, child]
        assert read_resident_bytes(process.pid) > 2**20
        process.stdin.close()


def test_what_its_children_compute_counts_once_they_are_gone_too() -> None:
    with run(2_000_000, 0, ends=True) as busy, run(0, 0, ends=True) as idle:
        for process in (busy, idle):
            assert process.stdout is not None
            process.stdout.readline()
        assert read_computed_s(busy.pid) > read_computed_s(idle.pid) + 0.03
        for process in (busy, idle):
            assert process.stdin is not None
            process.stdin.close()


def test_of_what_is_gone_nothing_is_told() -> None:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    process.wait()
    assert read_computed_s(process.pid) == read_resident_bytes(process.pid) == 0
    assert list_tree(os.getpid())[0] == os.getpid()

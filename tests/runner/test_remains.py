"""What lives of an engine is found and ended, and nobody else; with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from orchd.runner.remains import find_members, find_remains, is_there, kill, kill_all, read_process
from tests.fakes.family import KIN, MARK, TAG, TIMEOUT_S, Family, end_daemon, run_family

OTHER_MARK = b"f" * 32


def find(family: Family, sessions: dict[int, int], mark: bytes, *, is_fresh: bool) -> set[str]:
    """The names of those that are found; nobody but the family may be."""
    found = {process.pid for process in find_remains(sessions, mark, is_fresh=is_fresh)}
    assert found <= set(family.pids.values())
    return {name for name, pid in family.pids.items() if pid in found}


def test_a_process_is_read_with_its_session_and_start() -> None:
    with run_family() as family:
        child = read_process(family.pids["child"])
        assert child is not None
        assert (child.pid, child.session, child.is_alive) == (
            *(family.pids["child"], family.pid, True),
        )
        assert child.start >= family.start > 0
        assert is_there(family.pid, family.start)
        assert not is_there(family.pid, family.start + 1)


def test_one_that_is_gone_or_a_zombie_is_not_there() -> None:
    with subprocess.Popen(["/bin/sleep", "600"]) as process:
        before = read_process(process.pid)
        assert before is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert read_process(process.pid) == replace(before, is_alive=False)
        assert not is_there(before.pid, before.start)
    assert read_process(before.pid) is None
    assert not is_there(before.pid, before.start)


def test_a_process_whose_first_thread_has_ended_lives() -> None:
    program = """
import ctypes, threading
threading.Thread(target=lambda: (print(flush=True), threading.Event().wait())).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            deadline_s = time.monotonic() + TIMEOUT_S
            while "State:\tZ" not in Path(f"/proc/{process.pid}/status").read_text():
                assert time.monotonic() < deadline_s
                time.sleep(0.002)
            there = read_process(process.pid)
            assert there is not None and there.is_alive
        finally:
            process.kill()


def test_a_session_and_a_mark_find_each_what_the_other_misses() -> None:
    with run_family() as family:
        session = {family.pid: family.start}
        inside = {"leader", "child", "orphan", "group", "bare"}
        assert find(family, session, OTHER_MARK, is_fresh=False) == inside
        assert find(family, {}, MARK.encode(), is_fresh=False) == KIN - {"bare"}
        assert find(family, {}, TAG.encode(), is_fresh=False) == KIN - {"bare"}
        assert find(family, {}, f"{MARK}-01".encode(), is_fresh=False) == set()


def test_a_number_that_has_come_round_again_is_somebody_elses() -> None:
    with run_family(None) as family:
        for start in (family.start - 1, family.start + 1):
            for is_fresh in (False, True):
                assert find(family, {family.pid: start}, OTHER_MARK, is_fresh=is_fresh) == set()


def test_a_session_without_its_leader_is_believed_when_just_told_or_by_the_mark() -> None:
    inside = {"child", "orphan", "group", "bare"}
    with run_family(None) as family:
        family.kill("leader")
        family.wait_until_alive_are(*inside, "session")
        session = {family.pid: family.start}
        # A zombie still is who it was.
        assert find(family, session, MARK.encode(), is_fresh=False) == inside
        family.end_leader()
        assert find(family, session, MARK.encode(), is_fresh=False) == set()
        assert find(family, session, MARK.encode(), is_fresh=True) == inside
    with run_family() as family:
        family.end_leader()
        session = {family.pid: family.start}
        assert find(family, session, MARK.encode(), is_fresh=False) == {*inside, "session"}


def test_members_of_a_session_are_found_by_that_alone() -> None:
    """Without their leader too, and with or without a mark; never by a number that came round."""
    with run_family() as family:

        def found(start: int) -> set[int]:
            return {process.pid for process in find_members({family.pid: start})}

        inside = {family.pids[name] for name in KIN - {"session"}}
        assert found(family.start) == inside
        assert found(family.start + 1) == set()
        family.end_leader()
        assert found(family.start) == inside - {family.pid}


def test_only_the_very_process_is_killed() -> None:
    with run_family() as family:
        child = read_process(family.pids["child"])
        assert child is not None
        kill(replace(child, start=child.start + 1))
        kill(replace(child, pid=end_daemon()[0]))
        assert "child" in family.alive()
        kill(child)
        family.wait_until_alive_are("leader", "orphan", "group", "session", "bare")


def test_all_are_killed_and_told_of() -> None:
    with run_family() as family:
        session = {family.pid: family.start}
        killed, is_clear = kill_all(
            lambda: find_remains(session, MARK.encode(), is_fresh=False), TIMEOUT_S
        )
        assert (set(killed), is_clear) == (set(family.pids.values()), True)
        family.wait_until_alive_are()


def test_what_cannot_be_killed_is_not_tried_for_ever() -> None:
    own = read_process(os.getpid())
    assert own is not None
    stranger = replace(own, start=own.start + 1)
    assert kill_all(lambda: [stranger], 0.02) == ([own.pid], False)

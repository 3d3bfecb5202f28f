"""The guardian's process: what it hears, what it says, and what it ends when its pipe does."""

from __future__ import annotations

import os
import secrets
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchd.runner import guardian
from orchd.runner.engine_record import Name, make_record, read_record, write_record
from tests.fakes.family import (
    KIN,
    MARK,
    TAG,
    TIMEOUT_S,
    Family,
    end_daemon,
    own_start,
    run_family,
    start_of,
)

NAME = Name(os.getpid(), own_start(), MARK)
OTHER_TAG = f"{MARK}-01"
OTHER_MARK = secrets.token_hex(16)


class Guardian:
    """A guardian whose daemon is this test."""

    def __init__(self, folder: Path | None, *, prefix: tuple[str, ...] = ()) -> None:
        arguments = [str(os.getpid()), str(own_start()), MARK]
        self.record = None if folder is None else folder / str(NAME)
        self.process = subprocess.Popen(
            [
                *(*prefix, sys.executable, "-I", "-S", guardian.__file__, *arguments),
                *(() if folder is None else (str(folder),)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={},
            bufsize=0,
        )
        self._heard = b""

    def tell(self, *lines: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("".join(f"{line}\n" for line in lines).encode())

    def begin(self, family: Family, tag: str = TAG) -> None:
        self.tell(f"began {family.pid} {family.start} {tag}")

    def hear(self, last: str) -> list[str]:
        """Wait for a line; returns those before it."""
        assert self.process.stdout is not None
        deadline_s = time.monotonic() + TIMEOUT_S
        while last not in (lines := self._heard.decode().split("\n"))[:-1]:
            left_s = max(deadline_s - time.monotonic(), 0)
            assert select.select([self.process.stdout], [], [], left_s)[0], self._heard
            data = self.process.stdout.read(65536)
            assert data, f"it is gone: {self._heard!r}"
            self._heard += data
        before = lines[: lines.index(last)]
        self._heard = "\n".join(lines[len(before) + 1 :]).encode()
        return before

    def wait_for_record(self, sessions: dict[int, int]) -> None:
        """Until it is on the disk: nobody tells of it."""
        assert self.record is not None
        deadline_s = time.monotonic() + TIMEOUT_S
        while (
            not self.record.exists()
            or (there := read_record(self.record)) is None
            or (there.sessions != sessions)
        ):
            assert time.monotonic() < deadline_s, "no such record"
            time.sleep(0.005)

    def hang_up(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def wait(self) -> int:
        return self.process.wait(TIMEOUT_S)


@contextmanager
def run_guardian(folder: Path | None, *, prefix: tuple[str, ...] = ()) -> Iterator[Guardian]:
    it = Guardian(folder, prefix=prefix)
    with it.process:
        try:
            yield it
        finally:
            it.process.kill()


def test_at_the_end_of_the_pipe_nothing_of_an_engine_is_left(tmp_path: Path) -> None:
    with run_family() as family, run_guardian(tmp_path / "engines") as it:
        assert it.hear("ready") == []
        it.begin(family)
        it.wait_for_record({family.pid: family.start})
        assert family.alive() == KIN
        it.hang_up()
        family.wait_until_alive_are()
        assert it.wait() == 0
        assert list((tmp_path / "engines").iterdir()) == []


def test_it_ends_what_began_just_before_the_end(tmp_path: Path) -> None:
    with run_family() as family, run_guardian(tmp_path) as it:
        it.begin(family)
        it.hang_up()
        family.wait_until_alive_are()
        assert it.wait() == 0
        assert list(tmp_path.iterdir()) == []


def test_what_writes_over_its_environment_is_ended_with_its_session(tmp_path: Path) -> None:
    with run_family(None) as family, run_guardian(tmp_path) as it:
        it.begin(family)
        family.end_leader()
        it.hang_up()
        family.wait_until_alive_are("session")


def test_signals_to_all_do_not_end_it(tmp_path: Path) -> None:
    with run_family() as family, run_guardian(tmp_path) as it:
        it.hear("ready")
        it.begin(family)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            it.process.send_signal(number)
        it.hang_up()
        family.wait_until_alive_are()
        assert it.wait() == 0


def test_a_number_that_has_come_round_again_is_not_touched(tmp_path: Path) -> None:
    with run_family(None) as family, run_guardian(tmp_path) as it:
        it.tell(f"began {family.pid} {family.start - 1} {TAG}")
        it.tell(f"ended {family.pid}")
        it.hear(f"clear {family.pid}")
        it.tell(f"began {family.pid} {family.start - 1} {TAG}")
        it.hang_up()
        assert it.wait() == 0
        assert family.alive() == KIN


def test_of_an_engine_that_has_ended_the_rest_is_ended_and_no_other(tmp_path: Path) -> None:
    with run_family() as family, run_family(OTHER_TAG) as other, run_guardian(tmp_path) as it:
        it.begin(family)
        it.begin(other, OTHER_TAG)
        family.end_leader()
        it.tell(f"ended {family.pid}")
        it.hear(f"clear {family.pid}")
        assert family.alive() == set()
        assert other.alive() == KIN
        it.wait_for_record({other.pid: other.start})
        it.tell(f"ended {family.pid}")
        it.hear(f"clear {family.pid}")


def test_the_record_is_private_and_holds_the_engines(tmp_path: Path) -> None:
    with run_family() as family, run_guardian(tmp_path / "new" / "engines") as it:
        it.begin(family)
        it.wait_for_record({family.pid: family.start})
        assert it.record is not None
        assert stat.S_IMODE(it.record.stat().st_mode) == 0o600
        assert stat.S_IMODE(it.record.parent.stat().st_mode) == 0o700
        record = read_record(it.record)
        assert record is not None
        assert record.guardian[0] == it.process.pid


def test_it_begins_with_the_sweep(tmp_path: Path) -> None:
    daemon = end_daemon()
    with run_family() as family, run_guardian(tmp_path) as before:
        before.begin(family)
        before.wait_for_record({family.pid: family.start})
        before.process.kill()
        before.wait()
        assert before.record is not None
        before.record.rename(tmp_path / str(Name(*daemon, MARK)))
        with run_guardian(tmp_path) as it:
            (told,) = it.hear("ready")
            assert told.startswith(f"swept {daemon[0]} 6 ")
            family.wait_until_alive_are()
            assert list(tmp_path.iterdir()) == [it.record]


def test_two_daemons_that_live_do_not_touch_each_other(tmp_path: Path) -> None:
    with (
        subprocess.Popen(["/bin/sleep", "600"]) as daemon,
        run_family(f"{OTHER_MARK}-00") as theirs,
        run_family() as ours,
    ):
        try:
            there = make_record({theirs.pid: theirs.start})
            start = start_of(daemon.pid)
            path = tmp_path / str(Name(daemon.pid, start, OTHER_MARK))
            write_record(path, there)
            with run_guardian(tmp_path) as it:
                assert it.hear("ready") == []
                it.begin(ours)
                it.hang_up()
                ours.wait_until_alive_are()
                assert it.wait() == 0
            assert theirs.alive() == KIN
            assert list(tmp_path.iterdir()) == [path]
        finally:
            daemon.kill()


def test_without_a_folder_it_guards_all_the_same() -> None:
    with run_family() as family, run_guardian(None) as it:
        assert it.hear("ready") == []
        it.begin(family)
        it.hang_up()
        family.wait_until_alive_are()
        assert it.wait() == 0


def test_a_folder_that_cannot_be_made_is_told_once_and_it_guards_all_the_same(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "engines"
    with run_family() as family, run_guardian(folder) as it:
        told = [f"cannot keep a record of engines in {folder}: Not a directory"]
        assert it.hear("ready") == told
        it.begin(family)
        it.tell("ended 1")
        assert it.hear("clear 1") == []
        it.hang_up()
        family.wait_until_alive_are()
        assert it.wait() == 0


def test_a_disk_that_is_full_is_told_and_it_guards_all_the_same(tmp_path: Path) -> None:
    limited = ("/bin/sh", "-c", 'ulimit -f 0; exec "$@"', "sh")
    with run_family() as family, run_guardian(tmp_path, prefix=limited) as it:
        told = [f"cannot keep a record of engines in {tmp_path}: File too large"]
        assert it.hear("ready") == told
        it.begin(family)
        it.hang_up()
        family.wait_until_alive_are()
        assert it.wait() == 0


def test_a_disk_that_does_not_answer_does_not_hold_up_a_kill(tmp_path: Path) -> None:
    # To open it for writing waits for a reader that never comes.
    os.mkfifo((tmp_path / str(NAME)).with_suffix(".draft"))
    with run_family() as family, run_guardian(tmp_path) as it:
        it.begin(family)
        it.tell("ended 1")
        assert it.hear("clear 1") == []
        it.hang_up()
        family.wait_until_alive_are()
        assert it.wait() == 0

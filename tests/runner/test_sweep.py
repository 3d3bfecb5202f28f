"""The sweep: what daemons left that are gone is ended, and nothing of anybody else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from orchd.runner import sweep as swept_by
from orchd.runner.engine_record import Name, make_record, write_record
from orchd.runner.sweep import sweep
from tests.fakes.family import KIN, MARK, Family, end_daemon, own_start, run_family, start_of

NOBODY = "f" * 32


@dataclass
class Folder:
    """Where records are, and what a sweep of it told."""

    path: Path
    told: list[str] = field(default_factory=list)

    def leave(
        self, sessions: dict[int, int], mark: str = MARK, daemon: tuple[int, int] | None = None
    ) -> Path:
        """A record as a daemon leaves it that is gone, and its guardian too."""
        name = Name(*(daemon or end_daemon()), mark)
        path = self.path / str(name)
        write_record(path, replace(make_record(sessions), guardian=end_daemon()))
        return path

    def sweep(self) -> None:
        def tell(*words: object) -> None:
            self.told.append(" ".join(str(word) for word in words))

        sweep(self.path, make_record({}), tell, lambda: False)

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def family() -> Iterator[Family]:
    with run_family() as family:
        yield family


def test_all_that_a_daemon_left_is_ended_and_told(folder: Folder, family: Family) -> None:
    left = folder.leave({family.pid: family.start})
    folder.sweep()
    family.wait_until_alive_are()
    (told,) = folder.told
    word, daemon, count, *pids = told.split()
    assert (word, count) == ("swept", "6")
    assert left.name.startswith(f"{daemon}-")
    assert {int(pid) for pid in pids} == set(family.pids.values())
    assert folder.names == []


def test_what_writes_over_its_environment_is_found_by_its_session(folder: Folder) -> None:
    with run_family(None) as family:
        folder.leave({family.pid: family.start})
        folder.sweep()
        family.wait_until_alive_are("session")


def test_a_daemon_that_lives_is_left_alone(folder: Folder, family: Family) -> None:
    path = folder.leave({family.pid: family.start}, daemon=(os.getpid(), own_start()))
    path.with_suffix(".draft").touch()
    folder.sweep()
    assert family.alive() == KIN
    assert len(folder.names) == 2
    assert folder.told == []


def test_a_number_that_has_come_round_again_is_not_touched(folder: Folder, family: Family) -> None:
    folder.leave({family.pid: family.start - 1}, NOBODY)
    folder.sweep()
    assert family.alive() == KIN
    assert (folder.names, folder.told) == ([], [])


def test_a_background_service_that_has_the_number_now_is_not_touched(folder: Folder) -> None:
    """Its leader has gone, as is the custom: nothing but the mark tells it from an engine."""
    with run_family(None) as service:
        service.end_leader()
        folder.leave({service.pid: service.start - 1})
        folder.sweep()
        assert service.alive() == KIN - {"leader"}


def test_a_daemon_whose_number_is_anothers_now_is_gone(folder: Folder, family: Family) -> None:
    folder.leave({family.pid: family.start}, daemon=(os.getpid(), own_start() - 1))
    folder.sweep()
    family.wait_until_alive_are()


def test_a_record_of_another_boot_is_removed_without_a_kill(folder: Folder, family: Family) -> None:
    path = folder.leave({family.pid: family.start})
    write_record(
        path,
        replace(make_record({family.pid: family.start}), boot="another", guardian=end_daemon()),
    )
    folder.sweep()
    assert family.alive() == KIN
    assert (folder.names, folder.told) == ([], [])


def test_numbers_of_another_namespace_are_not_judged(folder: Folder, family: Family) -> None:
    path = folder.leave({})
    write_record(
        path,
        replace(
            make_record({family.pid: family.start}), pid_namespace="pid:[1]", guardian=end_daemon()
        ),
    )
    folder.sweep()
    assert family.alive() == KIN
    assert (folder.names, folder.told) == ([path.name], [])


def test_by_a_damaged_record_the_mark_is_found_and_it_is_told(
    folder: Folder, family: Family
) -> None:
    path = folder.leave({})
    path.write_bytes(b"{")
    folder.sweep()
    family.wait_until_alive_are("bare")
    assert folder.names == []
    assert folder.told[0] == f"found a record of engines that is damaged, and removed it: {path}"
    assert folder.told[1].startswith("swept ")


def test_one_that_cannot_be_read_does_not_spare_the_others(folder: Folder, family: Family) -> None:
    broken = folder.path / str(Name(1, 1, NOBODY))
    broken.mkdir()
    folder.leave({family.pid: family.start})
    folder.sweep()
    family.wait_until_alive_are()
    assert folder.told[0] == f"could not sweep by {broken}: Is a directory"
    assert folder.names == [broken.name]


def test_drafts_of_daemons_that_are_gone_go_and_other_files_stay(folder: Folder) -> None:
    folder.leave({}).rename(folder.path / str(Name(*end_daemon(), NOBODY, is_draft=True)))
    (folder.path / "notes").touch()
    folder.sweep()
    assert (folder.names, folder.told) == (["notes"], [])


@contextmanager
def recorded_guardian(folder: Folder, program: str) -> Iterator[subprocess.Popen[bytes]]:
    """The guardian of a daemon that is gone, still at it."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE
    ) as guardian:
        try:
            its = (guardian.pid, start_of(guardian.pid))
            write_record(folder.leave({}), replace(make_record({}), guardian=its))
            yield guardian
        finally:
            guardian.kill()


def test_a_guardian_that_is_still_at_it_is_waited_for(folder: Folder) -> None:
    with recorded_guardian(folder, "input()") as guardian:
        assert guardian.stdin is not None
        sweeping = threading.Thread(target=folder.sweep)
        sweeping.start()
        sweeping.join(0.1)
        assert sweeping.is_alive()
        guardian.stdin.write(b"\n")
        guardian.stdin.close()
        sweeping.join()
        assert guardian.wait() == 0
    assert (folder.names, folder.told) == ([], [])


def test_a_guardian_that_does_not_go_is_ended(
    folder: Folder, family: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swept_by, "HANDOVER_S", 0.02)
    with recorded_guardian(folder, "import signal; signal.pause()") as guardian:
        folder.sweep()
        assert guardian.wait() == -9
    family.wait_until_alive_are("bare")
    assert folder.names == []


def test_it_ends_early_when_there_is_no_time_left(folder: Folder, family: Family) -> None:
    path = folder.leave({family.pid: family.start})
    sweep(folder.path, make_record({}), folder.told.append, lambda: True)
    assert family.alive() == KIN
    assert folder.names == [path.name]

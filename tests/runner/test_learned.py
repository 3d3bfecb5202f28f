"""The store of measured footprints: on a real disk, which may be broken, full or dead."""

from __future__ import annotations

import asyncio
import stat
import threading
from dataclasses import replace
from pathlib import Path, PosixPath
from typing import Self

import pytest

from orchd.runner.learned import FILE_NAME, Learned
from orchd.runner.remembered import FootprintKey, read_entries, write_entries
from tests.conftest import Drive

KEY = FootprintKey("llamacpp", "b1", "/m.gguf", 1000, 1, 4096, 4, (), "gpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / FILE_NAME


def inode(path: Path) -> int:
    """Another one for every file that is put in a file's place."""
    return path.stat().st_ino


def test_nothing_is_recalled_where_nothing_was_measured(path: Path) -> None:
    assert Learned(path).recall(KEY) is None
    assert not path.parent.exists()


def test_what_is_remembered_counts_at_once_and_after_a_restart(
    drive: Drive[None], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        learned = Learned(path)
        learned.remember(KEY, 5000)
        assert learned.recall(KEY) == 5000
        await learned.close()
        assert Learned(path).recall(KEY) == 5000
        assert Learned(path).recall(replace(KEY, ctx=1)) is None

    drive(scenario())
    assert caplog.text == ""


def test_the_file_is_the_owners_alone_and_nothing_is_left_beside_it(
    drive: Drive[None], path: Path
) -> None:
    async def scenario() -> None:
        learned = Learned(path)
        learned.remember(KEY, 5000)
        await learned.close()

    drive(scenario())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]


def test_all_that_comes_while_it_writes_is_written(drive: Drive[None], path: Path) -> None:
    async def scenario() -> None:
        learned = Learned(path)
        for ctx in range(50):
            learned.remember(replace(KEY, ctx=ctx), 1000 + ctx)
            await asyncio.sleep(0)
        await learned.close()

    drive(scenario())
    assert len(read_entries(path.read_bytes())) == 50


def test_a_measurement_that_is_known_already_is_not_written_again(
    drive: Drive[None], path: Path
) -> None:
    async def scenario() -> None:
        learned = Learned(path)
        learned.remember(KEY, 5000)
        await learned.close()
        before = inode(path)
        learned.remember(KEY, 5000)
        await learned.close()
        assert inode(path) == before
        learned.remember(KEY, 5001)
        await learned.close()
        assert Learned(path).recall(KEY) == 5001

    drive(scenario())


def test_a_measurement_that_no_load_can_have_is_not_taken(
    drive: Drive[None], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        learned = Learned(path)
        for need_bytes in (0, -5, 1 << 50):
            learned.remember(KEY, need_bytes)
        await learned.close()
        assert learned.recall(KEY) is None

    drive(scenario())
    assert not path.exists()
    assert caplog.text.count("did not take a footprint of") == 3


def test_without_a_path_it_remembers_for_as_long_as_it_runs(drive: Drive[None]) -> None:
    async def scenario() -> None:
        learned = Learned(None)
        learned.remember(KEY, 5000)
        await learned.close()
        assert learned.recall(KEY) == 5000

    drive(scenario())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"not json", "it is not JSON"),
        (b'{"version": 9, "footprints": []}', "it is of version 9, not 1"),
        (b" " * ((1 << 22) + 1), "it is larger than 4194304 bytes"),
    ],
)
def test_a_file_that_is_of_no_use_costs_one_warning_and_is_replaced(
    drive: Drive[None], path: Path, caplog: pytest.LogCaptureFixture, content: bytes, reason: str
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)

    async def scenario() -> None:
        learned = Learned(path)
        assert learned.recall(KEY) is None
        learned.remember(KEY, 5000)
        await learned.close()
        assert Learned(path).recall(KEY) == 5000

    drive(scenario())
    (record,) = caplog.records
    assert record.getMessage() == f"did not use the footprints in {path}: {reason}"


def test_a_folder_in_its_place_costs_a_warning_for_each_way(
    drive: Drive[None], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir(parents=True)

    async def scenario() -> None:
        learned = Learned(path)
        for need_bytes in (5000, 6000, 7000):
            learned.remember(KEY, need_bytes)
            await learned.close()
        assert learned.recall(KEY) == 7000

    drive(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "could not keep footprints in" in caplog.text
    assert [entry.name for entry in path.parent.iterdir()] == [FILE_NAME]


def test_a_folder_that_cannot_be_made_costs_one_warning(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()

    async def scenario() -> None:
        learned = Learned(tmp_path / "file" / FILE_NAME)
        for need_bytes in (5000, 6000):
            learned.remember(KEY, need_bytes)
            await learned.close()

    drive(scenario())
    assert caplog.text.count("could not keep footprints in") == 1


def test_a_disk_that_does_not_answer_holds_nobody_up(
    drive: Drive[None], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The write is held in its thread; the loop and the close go on."""
    let_go = threading.Event()
    threads: set[threading.Thread] = set()

    class HeldPath(PosixPath):
        def replace(self, target: object) -> Self:
            threads.add(threading.current_thread())
            assert let_go.wait(30)
            return super().replace(str(target))

    async def scenario() -> None:
        learned = Learned(HeldPath(path), write_timeout_s=0.05)
        learned.remember(KEY, 5000)
        await learned.close()
        assert learned.recall(KEY) == 5000

    try:
        drive(scenario())
    finally:
        let_go.set()
    assert "the disk did not answer for 0.05 s" in caplog.text
    for thread in threads:
        assert thread.daemon
        thread.join(30)


def test_the_old_file_stands_until_the_new_one_is_whole(drive: Drive[None], path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(write_entries({KEY: 4000}))
    seen: list[dict[FootprintKey, int]] = []

    class WatchedPath(PosixPath):
        def replace(self, target: object) -> Self:
            seen.append(read_entries(path.read_bytes()))
            seen.append(read_entries(self.read_bytes()))
            return super().replace(str(target))

    async def scenario() -> None:
        learned = Learned(WatchedPath(path))
        learned.remember(KEY, 5000)
        await learned.close()

    drive(scenario())
    assert seen == [{KEY: 4000}, {KEY: 5000}]

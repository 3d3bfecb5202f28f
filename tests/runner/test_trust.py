"""Real files held to their digests: what is read and how often, what is warned of, what blocks."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchd.engines.llamacpp import LlamaCpp
from orchd.errors import HostError
from orchd.runner import trust as room
from orchd.runner.digest import SIDECAR_BYTES_MAX, Sidecar
from orchd.runner.learned import Learned
from orchd.runner.lifecycle import State
from orchd.runner.reckoner import Reckoner
from orchd.runner.trust import CHUNK_BYTES, FILES_MAX, MODELS_MAX, Trust
from tests.conftest import Drive
from tests.fakes.engines import count_descriptors, install_engine, write_model
from tests.fakes.hub import write_folder
from tests.runner.pools import make_pool
from tests.runner.stage import staged, until

WRONG = "0" * 64
PATIENCE_S = 30.0
"""Until a look is given up; the pools' own patience is as long."""


class Disk:
    """Reads files, counts how often one is begun, and can be made to stand still."""

    def __init__(self) -> None:
        self.begun = 0
        self.chunks = 0
        self.runs = threading.Event()
        self.runs.set()
        self.stands_at = 0
        """At which chunk it stands still, where it does."""

    def read(self, descriptor: int, buffer: memoryview) -> int:
        self.begun += os.lseek(descriptor, 0, os.SEEK_CUR) == 0
        self.chunks += 1
        if self.chunks > self.stands_at:
            assert self.runs.wait(60)
        return os.readv(descriptor, (buffer,))

    @contextlib.contextmanager
    def standing(self, after: int = 0) -> Iterator[None]:
        """It gives so many chunks more, and then none until the end of this."""
        self.stands_at = self.chunks + after
        self.runs.clear()
        try:
            yield
        finally:
            self.runs.set()

    def trust(self) -> Trust:
        return Trust(PATIENCE_S, self.read)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"a model")
    return path


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged since it was asked last: level and text."""
    caplog.set_level(logging.INFO)

    def hear() -> list[str]:
        told = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
        caplog.clear()
        return told

    return hear


Heard = Callable[[], list[str]]


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_sidecar(path: Path, digest: str | None = None) -> Path:
    sidecar = path.with_name(path.name + ".sha256")
    sidecar.write_text(f"{digest or digest_of(path)}  {path.name}\n")
    return sidecar


def count_threads(name: str) -> int:
    return [thread.name for thread in threading.enumerate()].count(name)


def is_hashing() -> bool:
    return count_threads("hash a model") > 0


def is_looking() -> bool:
    return count_threads("look for a sha256") > 0


async def spin(turns: int = 20) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


# -- the verdict -------------------------------------------------------------------------------


def test_without_a_digest_it_is_warned_once_and_nothing_is_read(
    drive: Drive[None], model: Path, disk: Disk, heard: Heard
) -> None:
    async def scenario() -> None:
        trust = disk.trust()
        for _ in range(3):
            await trust.check(make_pool(model=model))
        await trust.check(make_pool("other", model=model))
        assert heard() == [
            f"WARNING did not check {model}: no sha256 is known for it; put it into"
            f" {model}.sha256, or the pool's sha256"
        ]
        assert disk.begun == 0

    drive(scenario())


@pytest.mark.parametrize("is_beside", [True, False])
def test_one_that_is_as_was_told_is_told_of_once(
    drive: Drive[None], model: Path, disk: Disk, heard: Heard, is_beside: bool
) -> None:
    pool = make_pool(model=model)
    if is_beside:
        source = str(write_sidecar(model))
    else:
        source, pool = "the pool's sha256", replace(pool, sha256=digest_of(model).upper())

    async def scenario() -> None:
        trust = disk.trust()
        for _ in range(3):
            await trust.check(pool)
        short = digest_of(model)[:12]
        assert heard() == [
            f"INFO checked a model file sha256={short}…: {model} is as {source} says"
        ]
        assert disk.begun == 1

    drive(scenario())


def test_one_that_is_another_is_refused_until_it_is_mended(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    good = digest_of(model)
    write_sidecar(model)
    model.write_bytes(b"damaged")

    def mend() -> None:
        model.write_bytes(b"a model")

    expected = (
        f"^model {model} is not what it should be: its sha256 is {digest_of(model)[:12]}…, and"
        f" {model}.sha256 says {good[:12]}…; fetch it anew, or mend the digest"
    )

    async def scenario() -> None:
        trust = disk.trust()
        for _ in range(3):
            with pytest.raises(HostError, match=expected):
                await trust.check(make_pool(model=model))
        assert disk.begun == 1, "each try would read all of it again"
        mend()
        await trust.check(make_pool(model=model))
        assert disk.begun == 2

    drive(scenario())


def test_a_digest_that_is_mended_is_believed_without_reading_again(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    sidecar = write_sidecar(model, WRONG)

    async def scenario() -> None:
        trust = disk.trust()
        with pytest.raises(HostError, match="is not what it should be"):
            await trust.check(make_pool(model=model))
        write_sidecar(model)
        await trust.check(make_pool(model=model))
        sidecar.unlink()
        with pytest.raises(HostError, match="and the pool's sha256 says 000000000000…"):
            await trust.check(make_pool(model=model, sha256=WRONG))
        assert disk.begun == 1

    drive(scenario())


def test_the_pools_own_counts_and_a_sidecar_that_differs_is_warned_of_once(
    drive: Drive[None], model: Path, disk: Disk, heard: Heard
) -> None:
    write_sidecar(model, WRONG)
    pool = make_pool(model=model, sha256=digest_of(model))

    async def scenario() -> None:
        trust = disk.trust()
        for _ in range(2):
            await trust.check(pool)
        warning, told = heard()
        assert warning.startswith(f"WARNING did not use {model}.sha256: it says 000000000000…, ")
        assert told.endswith("is as the pool's sha256 says")

    drive(scenario())


def test_a_model_that_is_not_there_or_no_file_is_somebody_elses_to_tell(
    drive: Drive[None], tmp_path: Path, disk: Disk, heard: Heard
) -> None:
    async def scenario() -> None:
        trust = disk.trust()
        for path in (tmp_path, tmp_path / "absent", "an/id", "/m\0.gguf", "/" + "x" * 5000):
            await trust.check(make_pool(model=path))
        with pytest.raises(HostError, match=f"^model {tmp_path}: Is a directory; "):
            await trust.check(make_pool(model=tmp_path, sha256=WRONG))
        assert heard() == []

    drive(scenario())


def test_of_a_folder_each_file_of_its_weights_is_held_to_its_own(
    drive: Drive[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_folder(tmp_path / "m", parts=2)
    first, second = sorted(folder.glob("*.safetensors"))
    (folder / "tokenizer.json").touch()
    pool = replace(make_pool(model=folder), engine="vllm")

    async def scenario() -> None:
        trust = Trust(PATIENCE_S)
        write_sidecar(first)
        await trust.check(pool)
        assert f"did not check {second}: no sha256 is known for it" in caplog.text
        assert str(first) not in caplog.text.partition("did not check")[2]
        write_sidecar(second, WRONG)
        with pytest.raises(HostError, match="is not what it should be"):
            await trust.check(pool)
        write_sidecar(second)
        await trust.check(pool)

    drive(scenario())


# -- sidecars that say nothing -----------------------------------------------------------------


def test_a_sidecar_of_which_nothing_can_be_made_is_warned_of_and_the_load_goes_on(
    drive: Drive[None], model: Path, disk: Disk, heard: Heard
) -> None:
    sidecar = Path(f"{model}.sha256")

    def remove(path: Path) -> None:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()

    def tell_size(size_bytes: int) -> None:
        sidecar.touch()
        os.truncate(sidecar, size_bytes)

    kinds: dict[str, Callable[[], object]] = {
        "is no file": sidecar.mkdir,
        "is no file ": lambda: os.mkfifo(sidecar),
        "cannot be read: Too many levels of symbolic links": lambda: sidecar.symlink_to(sidecar),
        "is no file  ": lambda: sidecar.symlink_to("/dev/zero"),
        f"is larger than {SIDECAR_BYTES_MAX} bytes": lambda: tell_size(1 << 40),
        f"holds no sha256 of {model.name}": lambda: tell_size(SIDECAR_BYTES_MAX),
    }

    async def scenario() -> None:
        descriptors = count_descriptors()
        for reason, make in kinds.items():
            make()
            trust = disk.trust()
            for _ in range(2):
                await trust.check(make_pool(model=model))
            expected = f"WARNING did not check {model}: {sidecar} {reason.rstrip()}"
            assert heard() == [expected]
            remove(sidecar)
        assert disk.begun == 0
        assert count_descriptors() == descriptors

    drive(scenario())


def test_a_link_to_a_sidecar_that_is_gone_is_none(
    drive: Drive[None], model: Path, disk: Disk, heard: Heard
) -> None:
    Path(f"{model}.sha256").symlink_to("gone")

    async def scenario() -> None:
        await disk.trust().check(make_pool(model=model))
        (warning,) = heard()
        assert "no sha256 is known for it" in warning

    drive(scenario())


def test_a_sidecar_with_a_name_that_is_too_long_is_warned_of(
    drive: Drive[None], tmp_path: Path, disk: Disk, heard: Heard
) -> None:
    model = tmp_path / ("m" * 250)
    model.write_bytes(b"a model")

    async def scenario() -> None:
        await disk.trust().check(make_pool(model=model))
        (warning,) = heard()
        assert warning.endswith(".sha256 cannot be read: File name too long")

    drive(scenario())


# -- parts -------------------------------------------------------------------------------------


def test_each_part_of_a_model_is_held_to_its_own(
    drive: Drive[None], tmp_path: Path, disk: Disk, heard: Heard
) -> None:
    parts = [tmp_path / f"m-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
    for part in parts:
        part.write_bytes(part.name.encode())
    write_sidecar(parts[1])
    pool = make_pool(model=parts[0], sha256=digest_of(parts[0]))

    async def scenario() -> None:
        trust = disk.trust()
        await trust.check(pool)
        warning, *told = heard()
        assert warning.startswith(f"WARNING did not check {parts[2]}: no sha256 is known for it")
        assert [line.partition(": ")[2].partition(" ")[0] for line in told] == [
            str(parts[0]),
            str(parts[1]),
        ]
        assert disk.begun == 2
        parts[1].write_bytes(b"damaged")
        with pytest.raises(HostError, match=f"^model {parts[1]} is not what it should be"):
            await trust.check(pool)
        # Whole models have such names too.
        parts[1].unlink()
        await trust.check(pool)

    drive(scenario())


# -- how often it is read ----------------------------------------------------------------------


def test_however_many_ask_at_once_it_is_read_once(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    pools = [make_pool(model=model), make_pool(model=model, sha256=WRONG)]
    write_sidecar(model)

    async def scenario() -> None:
        trust = disk.trust()
        with disk.standing():
            asking = [asyncio.create_task(trust.check(pools[n % 2])) for n in range(8)]
            await until(lambda: disk.chunks == 1)
            await spin()
            assert not any(task.done() for task in asking)
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), HostError] * 4
        assert disk.begun == 1

    drive(scenario())


def test_each_change_of_the_file_has_it_read_again(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    pool = make_pool(model=model)
    write_sidecar(model)
    os.utime(model, ns=(5, 5))

    def put_in_its_place() -> None:
        other = model.with_name("other")
        other.write_bytes(model.read_bytes())
        os.utime(other, ns=(6, 6))
        other.replace(model)

    def make_longer() -> None:
        model.write_bytes(b"a longer model")
        os.utime(model, ns=(6, 6))
        write_sidecar(model)

    changes: list[Callable[[], object]] = [
        lambda: os.utime(model, ns=(6, 6)),
        put_in_its_place,
        make_longer,
    ]

    async def scenario() -> None:
        trust = disk.trust()
        await trust.check(pool)
        for count, change in enumerate(changes, 2):
            change()
            for _ in range(2):
                await trust.check(pool)
            assert disk.begun == count

    drive(scenario())


def test_one_that_lies_on_another_disk_is_another_file(tmp_path: Path) -> None:
    # Two disks cannot be had everywhere; what is compared can.
    path = tmp_path / "m"
    path.touch()
    seen = list(path.stat())
    moved = [*seen[:2], seen[2] + 1, *seen[3:]]
    assert room._state(os.stat_result(seen)) != room._state(os.stat_result(moved))


def write_over(path: Path) -> None:
    path.write_bytes(b"another")


def put_another(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def let_grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize("change", [write_over, put_another, let_grow])
def test_one_that_changes_meanwhile_is_not_believed(
    drive: Drive[None], model: Path, disk: Disk, change: Callable[[Path], None]
) -> None:
    write_sidecar(model)
    os.utime(model, ns=(5, 5))

    async def scenario() -> None:
        trust = disk.trust()
        with disk.standing(after=1):
            asking = asyncio.create_task(trust.check(make_pool(model=model)))
            await until(lambda: disk.chunks == 2)
            change(model)
        with pytest.raises(HostError, match=f"^model {model} changed while its sha256 was"):
            await asking
        write_sidecar(model)
        await trust.check(make_pool(model=model))
        assert disk.begun == 2

    drive(scenario())


def test_one_that_is_taken_away_meanwhile_is_told(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    write_sidecar(model)

    async def scenario() -> None:
        with disk.standing():
            asking = asyncio.create_task(disk.trust().check(make_pool(model=model)))
            await until(lambda: disk.chunks == 1)
            os.unlink(model)  # noqa: PTH108
        with pytest.raises(HostError, match=f"^model {model}: No such file or directory$"):
            await asking

    drive(scenario())


def test_one_that_grows_for_ever_is_not_read_for_ever(drive: Drive[None], model: Path) -> None:
    write_sidecar(model)

    def read(descriptor: int, buffer: memoryview) -> int:
        let_grow(model)
        return os.readv(descriptor, (buffer[:4],))

    async def scenario() -> None:
        with pytest.raises(HostError, match="changed while"):
            await Trust(PATIENCE_S, read).check(make_pool(model=model))

    drive(scenario())


# -- who waits ---------------------------------------------------------------------------------


def test_one_that_gives_up_leaves_it_to_the_others_and_the_last_ends_it(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    os.truncate(model, 20 * CHUNK_BYTES)
    write_sidecar(model)

    async def scenario() -> None:
        trust = disk.trust()
        with disk.standing(after=2):
            first, second = (
                asyncio.create_task(trust.check(make_pool(model=model))) for _ in range(2)
            )
            await until(lambda: disk.chunks == 3)
            first.cancel()
            await asyncio.wait([first])
        await second
        assert (disk.begun, disk.chunks) == (1, 21)

        os.utime(model, ns=(5, 5))
        with disk.standing(after=2):
            last = asyncio.create_task(trust.check(make_pool(model=model)))
            await until(lambda: disk.chunks == 24)
            last.cancel()
            await asyncio.wait([last])
        await until(lambda: not is_hashing())
        assert (disk.begun, disk.chunks) == (2, 24), "read on for nobody"
        # What it had done then is not taken for the whole.
        await trust.check(make_pool(model=model))
        assert disk.begun == 3

    drive(scenario())


def test_one_that_comes_before_it_is_ended_goes_on_with_it(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    write_sidecar(model)

    async def scenario() -> None:
        trust = disk.trust()
        with disk.standing():
            first = asyncio.create_task(trust.check(make_pool(model=model)))
            await until(lambda: disk.chunks == 1)
            first.cancel()
            await asyncio.wait([first])
            second = asyncio.create_task(trust.check(make_pool(model=model)))
            await spin()
            await until(lambda: not is_looking())
            await spin()
        await second
        assert disk.begun == 1

    drive(scenario())


def test_one_that_comes_just_too_late_for_that_begins_afresh(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    os.truncate(model, 3 * CHUNK_BYTES)

    async def scenario() -> None:
        file = room._File(str(model), str(model), disk.read)
        with disk.standing():
            first = asyncio.create_task(file._find(PATIENCE_S))
            await until(lambda: disk.chunks == 1)
            first.cancel()
            await asyncio.wait([first])
            second = asyncio.create_task(file._find(PATIENCE_S))
        # Its thread ends before the second has taken a step, and the loop hears of it after.
        for thread in threading.enumerate():
            if thread.name == "hash a model":
                thread.join(60)
        assert not is_hashing()
        assert (await second).digest == digest_of(model)
        assert disk.begun == 2

    drive(scenario())


def test_the_loop_turns_on_while_a_large_file_is_hashed(drive: Drive[None], model: Path) -> None:
    os.truncate(model, 64 * CHUNK_BYTES)
    write_sidecar(model, WRONG)

    async def scenario() -> None:
        trust, pool = Trust(), make_pool(model=model)
        checking = asyncio.create_task(trust.check(pool))
        turns = 0
        while not checking.done():
            turns += trust.describe_progress(pool) != ""
            await asyncio.sleep(0)
        with pytest.raises(HostError, match="is not what it should be"):
            await checking
        # Held up for each chunk it would turn once for each, and for all of it not at all.
        assert turns > 500, turns

    drive(scenario())


def test_a_disk_that_stands_still_is_given_up_and_has_one_thread(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    write_sidecar(model)
    pool = make_pool(model=model, load_stall_s=0.02)

    async def scenario() -> None:
        trust = disk.trust()
        with disk.standing():
            for _ in range(3):
                expected = rf"^model {model}: its disk gave nothing of it for 0\.02 s$"
                with pytest.raises(HostError, match=expected):
                    await trust.check(pool)
            assert count_threads("hash a model") == 1
            # Another model is not held up by it.
            other = model.with_name("other")
            other.write_bytes(b"")
            await trust.check(make_pool(model=other))
        await until(lambda: not is_hashing())
        await trust.check(replace(pool, load_stall_s=PATIENCE_S))

    drive(scenario())


def test_a_disk_that_is_slow_is_waited_for(drive: Drive[None], model: Path) -> None:
    """All of it takes far longer than the patience lasts, and each byte renews that.

    The loop stands still for each byte until it is counted, so that the patience cannot end before
    one, however slow the machine is.
    """
    patience_s, pause_s, size_bytes = 0.05, 0.005, 40
    model.write_bytes(bytes(size_bytes))
    write_sidecar(model)
    asked, granted = threading.Semaphore(0), threading.Semaphore(0)

    def read(descriptor: int, buffer: memoryview) -> int:
        asked.release()
        assert granted.acquire(timeout=60)
        return os.readv(descriptor, (buffer[:1],))

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def grant(left: int) -> None:
            granted.release()
            if left:
                assert asked.acquire(timeout=60)
                loop.call_later(pause_s, grant, left - 1)

        pool = make_pool(model=model, load_stall_s=patience_s)
        checking = loop.create_task(Trust(PATIENCE_S, read).check(pool))
        await until(is_hashing)
        began_s = loop.time()
        assert asked.acquire(timeout=60)
        grant(size_bytes)
        await checking
        assert loop.time() - began_s > 2 * patience_s

    drive(scenario())


def test_a_model_that_is_a_fifo_is_given_up(drive: Drive[None], tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    pool = make_pool(model=fifo, load_stall_s=0.02, sha256=WRONG)

    async def scenario() -> None:
        with pytest.raises(HostError, match="its disk gave nothing of it"):
            await Trust().check(pool)

    try:
        drive(scenario())
    finally:
        os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))


def test_a_disk_that_does_not_tell_what_lies_beside_is_warned_of(
    drive: Drive[None], model: Path, disk: Disk, heard: Heard
) -> None:
    pool = make_pool(model=model)
    known = make_pool(model=model, sha256=digest_of(model))
    tells = threading.Event()

    def look(_: str) -> dict[str, Sidecar]:
        assert tells.wait(60)
        return {}

    async def scenario() -> None:
        trust = Trust(0.02, disk.read, look)
        for _ in range(3):
            await trust.check(pool)
        (warning,) = heard()
        assert warning.endswith(f"{model}.sha256 could not be read for 0.02 s")
        assert count_threads("look for a sha256") == 1
        # The pool's own is held to all the same.
        await trust.check(known)
        assert disk.begun == 1

    try:
        drive(scenario())
    finally:
        tells.set()


# -- what is told and kept ---------------------------------------------------------------------


def test_while_it_hashes_it_tells_how_far_it_is(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    os.truncate(model, 4 * CHUNK_BYTES)
    write_sidecar(model)
    pool = make_pool(model=model)

    async def scenario() -> None:
        trust = disk.trust()
        assert trust.describe_progress(pool) == ""
        with disk.standing(after=1):
            checking = asyncio.create_task(trust.check(pool))
            await until(lambda: disk.chunks == 2)
            expected = "checks the sha256 of its model, 25% of 0.0 GiB read"
            assert trust.describe_progress(pool) == expected
            assert trust.describe_progress(make_pool(model="/other")) == ""
        await checking
        assert trust.describe_progress(pool) == ""

    drive(scenario())


def test_what_came_and_went_is_let_go(drive: Drive[None], tmp_path: Path, disk: Disk) -> None:
    folder = tmp_path
    part = folder / "m-00001-of-00001.gguf"
    part.write_bytes(b"")
    write_sidecar(part)

    async def scenario() -> None:
        trust = disk.trust()
        for n in range(MODELS_MAX + 3):
            await trust.check(make_pool(model=f"/absent/{n}"))
        assert trust.kept == (MODELS_MAX, 0)
        await trust.check(make_pool(model=part))
        assert trust.kept == (MODELS_MAX, 1)

    drive(scenario())
    kept: dict[str, int] = {}
    for n in range(FILES_MAX + 3):
        room._keep(kept, str(n), FILES_MAX, lambda n=n: n)  # type: ignore[misc]
    assert len(kept) == FILES_MAX and "2" not in kept and "3" in kept


# -- on the way of a replica -------------------------------------------------------------------


def reckon_with(trust: Trust) -> Reckoner:
    return Reckoner({"llamacpp": LlamaCpp()}, Learned(None), trust=trust)


def test_what_a_head_tells_is_told_before_anything_is_hashed(
    drive: Drive[None], model: Path, disk: Disk
) -> None:
    write_sidecar(model)

    async def scenario() -> None:
        with pytest.raises(HostError, match="is not a GGUF file"):
            await reckon_with(disk.trust()).needs(make_pool(model=model))
        with pytest.raises(HostError, match="is not what it should be"):
            pool = make_pool(model=model, vram_mib=1, sha256=WRONG)
            await reckon_with(disk.trust()).needs(pool)
        assert disk.begun == 1

    drive(scenario())


def test_its_replicas_share_one_hash_and_their_restarts_need_none(
    drive: Drive[None], tmp_path: Path, disk: Disk, heard: Heard
) -> None:
    model = write_model(tmp_path)
    write_sidecar(model)
    pool = make_pool(model=model, binary=install_engine(tmp_path), replicas=3)

    async def scenario() -> None:
        reckoner = reckon_with(disk.trust())
        async with staged(tmp_path, pool=pool, reckoner=reckoner) as stage:
            with disk.standing():
                await until(lambda: disk.chunks == 1)
                await until(lambda: not is_looking())
                await spin()
                for status in stage.statuses():
                    assert status.state is State.PLACING
                    told = "s (checks the sha256 of its model, 0% of 0.0 GiB read)"
                    assert (status.reason or "").endswith(told)
            await stage.reach(State.READY)
            stage.kill_all()
            await until(lambda: stage.opened == 6)
            assert disk.begun == 1
        assert sum("checked a model file" in line for line in heard()) == 1

    drive(scenario())


def test_one_with_another_model_waits_and_comes_up_once_that_is_mended(
    drive: Drive[None], tmp_path: Path, disk: Disk
) -> None:
    model = write_model(tmp_path)
    write_sidecar(model, WRONG)
    pool = make_pool(model=model, binary=install_engine(tmp_path))

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, reckoner=reckon_with(disk.trust())) as stage:
            await until(lambda: "tries again in" in (stage.only.reason or ""))
            assert stage.only.state is State.BACKOFF
            assert (stage.only.pid, stage.only.has_failed) == (None, True)
            assert f"{model} is not what it should be: " in (stage.only.reason or "")
            write_sidecar(model)
            await stage.reach(State.READY)
            assert stage.only.restarts == 0

    drive(scenario())


def test_a_stop_does_not_wait_for_a_disk_that_stands_still(
    drive: Drive[None], tmp_path: Path, disk: Disk
) -> None:
    model = write_model(tmp_path, 4 * CHUNK_BYTES)
    write_sidecar(model)
    pool = make_pool(model=model, binary=install_engine(tmp_path))

    async def scenario() -> None:
        async with staged(tmp_path, pool=pool, reckoner=reckon_with(disk.trust())) as stage:
            with disk.standing():
                await until(lambda: disk.chunks == 1)
                await stage.supervisor.stop()
                assert stage.only.state is State.DOWN
            await until(lambda: not is_hashing())
            assert disk.chunks == 1, "read on for nobody"

    drive(scenario())

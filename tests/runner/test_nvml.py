"""What NVML tells, through the real pynvml on a fake library: cards, and every way it fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.nvml import Card, FakeNvml, build_nvml, card, uuid_of

PROGRAM = """
import dataclasses, json, sys
from pathlib import Path
from orchd.runner.nvml import NvmlReader
from orchd.runner.snapshot import NoReading
reader = NvmlReader(reopen_s=float(sys.argv[1]), driver_gpus=Path(sys.argv[2]))
for _ in sys.stdin:
    reading = reader.read()
    items = [reading] if isinstance(reading, NoReading) else reading
    print(json.dumps([dataclasses.asdict(item) for item in items]), flush=True)
"""

NAME = "NVIDIA GeForce RTX 3090"
NO_DRIVER = (
    "no NVIDIA driver is installed (libnvidia-ml.so.1); a pool may run without a GPU only where it"
    ' says devices = ["cpu"]'
)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


class Asker:
    """A process of its own with one reader: the library is loaded once in a process."""

    def __init__(self, nvml: FakeNvml, library: Path, reopen_s: float) -> None:
        self.driver_gpus = nvml.folder / "driver"
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(reopen_s), str(self.driver_gpus)],
            env=nvml.environment(library),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> list[dict[str, Any]]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return list(json.loads(self._process.stdout.readline()))

    def only(self) -> dict[str, Any]:
        (item,) = self.read()
        return item

    def close(self) -> None:
        self._process.communicate(timeout=30)


class Bench:
    """A machine, and readers of it that end with the test."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.nvml = FakeNvml(folder)
        self._library = library
        self._askers: list[Asker] = []

    def ask(
        self, *cards: Card, library: Path | None = None, reopen_s: float = 0, **settings: int
    ) -> Asker:
        self.nvml.cards = list(cards)
        self.nvml.write(**settings)
        asker = Asker(self.nvml, library or self._library, reopen_s)
        self._askers.append(asker)
        return asker

    def close(self) -> None:
        for asker in self._askers:
            asker.close()


@pytest.fixture
def bench(tmp_path: Path, library: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "machine", library)
    yield bench
    bench.close()


# -- cards -------------------------------------------------------------------------------------


def test_every_card_is_told_with_all_that_is_known_of_it(bench: Bench) -> None:
    asker = bench.ask(
        card(0, 24, "NVIDIA GeForce RTX 3090", used_mib=1024, utilization=37),
        replace(card(1, 12, "NVIDIA GeForce RTX 4070"), capability="8.9"),
    )
    first, second = asker.read()
    assert first == {
        "uuid": uuid_of(0),
        "index": 0,
        "name": "NVIDIA GeForce RTX 3090",
        "total_bytes": 24 << 30,
        "free_bytes": 23 << 30,
        "pci_bus_id": "00000000:01:00.0",
        "utilization": 37,
        "compute_capability": "8.6",
        "processes": [],
    }
    assert (second["uuid"], second["index"], second["pci_bus_id"]) == (
        *(uuid_of(1), 1),
        "00000000:02:00.0",
    )
    assert (second["compute_capability"], second["free_bytes"]) == ("8.9", 12 << 30)


def test_a_driver_without_cards_is_no_failure(bench: Bench) -> None:
    assert bench.ask().read() == []


def test_it_stays_initialised_and_sees_each_change(bench: Bench) -> None:
    asker = bench.ask(card(0, 24))
    seen = []
    for used_mib in (0, 4096, 1024):
        bench.nvml.change(0, used_mib=used_mib)
        seen.append(asker.only()["free_bytes"] >> 20)
    assert seen == [24576, 20480, 23552]
    assert bench.nvml.calls() == ["init"]


def test_what_a_card_does_not_tell_is_none_and_no_failure(bench: Bench) -> None:
    codes = {"utilization_code": 3, "capability_code": 3, "processes_code": 3, "pci_code": 999}
    told = bench.ask(card(0, 24, NAME, **codes)).only()
    assert told["total_bytes"] == 24 << 30
    assert [told[key] for key in ("utilization", "compute_capability", "pci_bus_id")] == [None] * 3
    assert told["processes"] == []


@pytest.mark.parametrize("flags", [(), ("-DOLD_DRIVER",)], ids=["driver", "driver before 510"])
def test_processes_are_told_with_their_session_and_memory(
    bench: Bench, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    library = build_nvml(tmp_path, *flags)
    asker = bench.ask(card(0, 24), library=library)
    (bench.nvml.folder / "taken" / str(os.getpid())).write_text(f"{uuid_of(0)} 300 0")
    (process,) = asker.only()["processes"]
    mine = {"pid": os.getpid(), "session": os.getsid(0), "used_bytes": 300 << 20}
    assert process == mine
    assert asker.only()["free_bytes"] == (24 << 30) - (300 << 20)


def test_memory_of_a_process_that_is_not_told_is_none(bench: Bench) -> None:
    asker = bench.ask(card(0, 24, untold=1))
    (bench.nvml.folder / "taken" / str(os.getpid())).write_text(f"{uuid_of(0)} 300 0")
    (process,) = asker.only()["processes"]
    assert (process["pid"], process["used_bytes"]) == (os.getpid(), None)


def test_a_pid_of_another_namespace_has_no_session(bench: Bench, tmp_path: Path) -> None:
    asker = bench.ask(card(0, 24))
    cards = bench.nvml.folder / "cards"
    cards.write_text(cards.read_text() + f"process {2**22 + 1} 500\n")
    (process,) = asker.only()["processes"]
    assert (process["session"], process["used_bytes"]) == (None, 500 << 20)


@pytest.mark.parametrize(("mig", "is_used"), [(-1, True), (0, True), (1, False)])
def test_a_card_that_could_be_divided_is_used_and_one_that_is_is_not(
    bench: Bench, mig: int, is_used: bool
) -> None:
    told = bench.ask(card(0, 80, mig=mig)).only()
    assert told["uuid"] == uuid_of(0)
    assert ("reason" not in told) is is_used
    if not is_used:
        assert told["reason"] == "is divided into MIG instances; orchd uses whole GPUs"


# -- a card that fails -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason", "is_lost"),
    [
        pytest.param(15, "has fallen off the bus", True, id="NVML_ERROR_GPU_IS_LOST"),
        pytest.param(
            4,
            "may not be used by this user; see who may open /dev/nvidia* (ls -l), and in a unit its"
            " DeviceAllow",
            False,
            id="NVML_ERROR_NO_PERMISSION",
        ),
        pytest.param(
            *(3, "does not tell its memory, so nothing can be placed by it", False),
            id="NVML_ERROR_NOT_SUPPORTED",
        ),
        pytest.param(16, "has to be reset", False, id="NVML_ERROR_RESET_REQUIRED"),
        pytest.param(999, "cannot be read: Unknown Error", False, id="NVML_ERROR_UNKNOWN"),
    ],
)
def test_a_card_that_fails_says_why_and_leaves_the_others(
    bench: Bench, code: int, reason: str, is_lost: bool
) -> None:
    asker = bench.ask(card(0, 24), card(1, 12))
    assert len(asker.read()) == 2
    bench.nvml.change(0, memory_code=code)
    failed, sound = asker.read()
    assert failed == {
        "reason": reason,
        "is_lost": is_lost,
        "uuid": uuid_of(0),
        "pci_bus_id": "00000000:01:00.0",
    }
    assert sound["uuid"] == uuid_of(1)
    bench.nvml.change(0, memory_code=0)
    assert [told["uuid"] for told in asker.read()] == [uuid_of(0), uuid_of(1)]


def test_memory_that_cannot_be_is_not_believed(bench: Bench) -> None:
    asker = bench.ask(card(0, 24, used_mib=25 * 1024), card(1, 12))
    odd, sound = asker.read()
    assert odd["reason"] == "tells more memory free than it has, so nothing can be placed by it"
    assert (odd["uuid"], odd["is_lost"], sound["uuid"]) == (uuid_of(0), False, uuid_of(1))


@pytest.mark.parametrize("call", ["handle", "uuid", "name", "utilization"])
def test_a_card_that_is_lost_is_lost_whichever_call_tells(bench: Bench, call: str) -> None:
    lost, sound = bench.ask(card(0, 24, NAME, **{f"{call}_code": 15}), card(1, 12)).read()
    assert (lost["reason"], lost["is_lost"]) == ("has fallen off the bus", True)
    assert sound["uuid"] == uuid_of(1)


def test_a_loss_has_it_initialised_afresh_once_and_then_from_time_to_time(bench: Bench) -> None:
    asker = bench.ask(card(0, 24), reopen_s=3600)
    asker.read()
    bench.nvml.change(0, handle_code=15)
    for _ in range(3):
        assert asker.only()["is_lost"]
    assert bench.nvml.calls() == ["init", "shutdown", "init"]


def test_after_a_reload_of_the_driver_nothing_is_amiss(bench: Bench) -> None:
    asker = bench.ask(card(0, 24), epoch=1)
    asker.read()
    for epoch, stale_code in enumerate((999, 1, 9, 18), start=2):
        bench.nvml.write(epoch=epoch, stale_code=stale_code)
        assert asker.only()["uuid"] == uuid_of(0)
    assert bench.nvml.calls().count("init") == 5


def test_a_card_that_is_no_longer_listed_is_looked_for_afresh(bench: Bench) -> None:
    asker = bench.ask(card(0, 24), card(1, 12), reopen_s=0)
    asker.read()
    bench.nvml.cards.pop(0)
    bench.nvml.write()
    assert [told["uuid"] for told in asker.read()] == [uuid_of(1)]
    assert bench.nvml.calls() == ["init", "shutdown", "init"]


def test_a_card_that_the_driver_has_found_since_is_looked_for(bench: Bench) -> None:
    asker = bench.ask(card(0, 24), reopen_s=0)
    asker.driver_gpus.mkdir()
    (asker.driver_gpus / "0000:01:00.0").touch()
    asker.read()
    asker.read()
    assert bench.nvml.calls() == ["init"]
    (asker.driver_gpus / "0000:02:00.0").touch()
    asker.read()
    asker.read()
    assert bench.nvml.calls() == ["init", "shutdown", "init"]


# -- a driver that fails -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        pytest.param(
            9,
            "the NVIDIA driver is installed but not loaded; modprobe nvidia, as root, loads it or"
            " says why not",
            id="NVML_ERROR_DRIVER_NOT_LOADED",
        ),
        pytest.param(
            4,
            "the NVIDIA driver may not be used by this user; see who may open /dev/nvidiactl"
            " (ls -l), and in a unit its DeviceAllow",
            id="NVML_ERROR_NO_PERMISSION",
        ),
        pytest.param(
            18,
            "the NVIDIA driver and its library differ in version, as after an upgrade; start orchd"
            " again, and if that does not help, the machine",
            id="NVML_ERROR_LIB_RM_VERSION_MISMATCH",
        ),
        pytest.param(999, "the NVIDIA driver fails: Unknown Error", id="NVML_ERROR_UNKNOWN"),
    ],
)
def test_a_driver_that_fails_is_a_sentence_for_the_user_until_it_does_not(
    bench: Bench, code: int, sentence: str
) -> None:
    asker = bench.ask(card(0, 24), init=code)
    assert asker.read() == [{"reason": sentence}]
    bench.nvml.write(init=0)
    assert asker.only()["uuid"] == uuid_of(0)
    bench.nvml.write(count_code=code)
    assert asker.read() == [{"reason": sentence}]
    bench.nvml.write(count_code=0)
    assert asker.only()["uuid"] == uuid_of(0)


def test_a_library_that_comes_later_is_found(bench: Bench, library: Path, tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has the real one")
    place = tmp_path / "lib"
    place.mkdir()
    asker = bench.ask(card(0, 24), library=place)
    assert asker.read() == [{"reason": NO_DRIVER}]
    (place / "libnvidia-ml.so.1").write_bytes(b"no library")
    assert asker.read() == [{"reason": NO_DRIVER}]
    (place / "libnvidia-ml.so.1").unlink()
    shutil.copy(library / "libnvidia-ml.so.1", place)
    assert asker.only()["uuid"] == uuid_of(0)

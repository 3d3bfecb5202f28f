"""What NVML tells, through the real pynvml on a fake library: cards, and every way it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.nvml import build_nvml

PROGRAM = """
import logging, sys
from orchd.errors import HostError
from orchd.runner.devices import sample_gpus
logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s")
try:
    for _ in range(2):
        gpus = sample_gpus()
    for gpu in gpus:
        print(gpu.index, gpu.uuid, gpu.name, gpu.total_bytes >> 30, gpu.free_bytes >> 30)
except HostError as error:
    print(f"HostError: {error}")
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


def sample(library: Path | None, **settings: int) -> list[str]:
    """What a process of its own prints: the library is loaded once in a process."""
    environment = {f"FAKE_NVML_{name}": str(value) for name, value in settings.items()}
    if library is not None:
        environment["LD_LIBRARY_PATH"] = str(library)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_every_card_is_told_with_its_uuid_and_memory(library: Path) -> None:
    assert sample(library, COUNT=2) == [
        "0 GPU-00000000-0000-0000-0000-000000000000 Fake Card 0 8 7",
        "1 GPU-00000000-0000-0000-0000-000000000001 Fake Card 1 16 15",
    ]


def test_a_driver_without_cards_is_no_failure(library: Path) -> None:
    assert sample(library, COUNT=0) == []


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        pytest.param(
            9, "the NVIDIA driver is installed but not loaded", id="NVML_ERROR_DRIVER_NOT_LOADED"
        ),
        pytest.param(
            4, "the NVIDIA driver may not be used by this user", id="NVML_ERROR_NO_PERMISSION"
        ),
        pytest.param(
            18,
            "the NVIDIA driver and its library differ in version; a reboot mends it",
            id="NVML_ERROR_LIB_RM_VERSION_MISMATCH",
        ),
        pytest.param(999, "NVML failed: Unknown Error", id="NVML_ERROR_UNKNOWN"),
    ],
)
def test_a_driver_that_fails_is_a_sentence_for_the_user(
    library: Path, code: int, sentence: str
) -> None:
    assert sample(library, INIT=code) == [f"HostError: {sentence}"]


@pytest.mark.parametrize("code", [15, 3, 999], ids=["lost", "not supported", "unknown"])
def test_a_card_that_is_lost_leaves_the_others(library: Path, code: int) -> None:
    *warnings, card = sample(library, LOST=0, CODE=code)
    assert card == "1 GPU-00000000-0000-0000-0000-000000000001 Fake Card 1 16 15"
    assert len(warnings) == 2
    assert warnings[0].startswith("WARNING passed over GPU 0: ")


def test_without_the_library_no_driver_is_installed(tmp_path: Path) -> None:
    if Path("/proc/driver/nvidia").exists():
        pytest.skip("this machine has the real one")
    expected = (
        "HostError: no NVIDIA driver is installed (libnvidia-ml.so.1); a pool may run without a"
        ' GPU only where it says devices = ["cpu"]'
    )
    assert sample(None) == [expected]
    broken = tmp_path / "libnvidia-ml.so.1"
    broken.write_bytes(b"no library")
    assert sample(tmp_path) == [expected]

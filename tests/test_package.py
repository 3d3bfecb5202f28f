"""What is shipped: the sdist and the wheel, and the wheel's orchd in an environment of its own.

Nothing is fetched: the wheel's dependencies are taken from the environment that runs the tests.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

import orchd
from tests.fakes.daemon import TIMEOUT_S, environment, write_config

ROOT = Path(__file__).parents[1]
DEPENDENCIES = ["h11", "nvidia-ml-py", "orjson", "uvloop"]
BUILD = (
    "import sys; from flit_core import buildapi as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"
)


def build(root: Path, kind: str, folder: Path) -> Path:
    """An archive of the project at ``root``, by the very hook that pip calls (PEP 517)."""
    done = subprocess.run(
        [sys.executable, "-c", BUILD, f"build_{kind}", str(folder)],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return folder / done.stdout.strip()


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def metadata(wheel: Path) -> Message:
    (name,) = (name for name in contents(wheel) if name.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(contents(wheel)[name].decode())


def needed(requirements: list[str]) -> list[str]:
    """The names of those that hold without an extra."""
    plain = [text for text in requirements if "extra ==" not in text.replace("'", '"')]
    return sorted(text.split(">")[0].split("<")[0].split(";")[0].strip() for text in plain)


# -- what is in it -----------------------------------------------------------------------------


def test_the_wheel_has_all_of_orchd_and_nothing_else(wheel: Path) -> None:
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "orchd").rglob("*.py")}
    info = f"orchd-{orchd.__version__}.dist-info"
    beside = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    expected = {*sources, "orchd/py.typed", *(f"{info}/{name}" for name in beside)}
    assert set(contents(wheel)) == expected


def test_it_needs_four_distributions_that_need_none(wheel: Path) -> None:
    told = metadata(wheel)
    assert needed(told.get_all("Requires-Dist") or []) == DEPENDENCIES
    assert told["Requires-Python"] == ">=3.11"
    for name in DEPENDENCIES:
        assert needed(importlib.metadata.requires(name) or []) == []


def test_the_sdist_makes_the_same_wheel_and_has_the_tests(
    sdist: Path, wheel: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        # By hand: extractall wants a filter from 3.12 on, and before 3.11.4 knows of none.
        for member in archive.getmembers():
            if (content := archive.extractfile(member)) is not None:
                path = tmp_path / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    (root,) = tmp_path.iterdir()
    assert not [name for name in names if ".pyc" in name or name.startswith(".")]
    for name in (
        "LICENSE",
        "README.md",
        "tools/test",
        "tests/test_package.py",
        "tests/fakes/nvml.c",
    ):
        assert name in names
    assert {"contracts/openapi/data.yaml", "ci/metrics.lint.json"} <= names
    again = build(root, "wheel", tmp_path)
    assert contents(again) == contents(wheel)


def test_pythons_that_are_promised_are_tried() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    minors = sorted(int(c.removeprefix(prefix)) for c in project["classifiers"] if prefix in c)
    assert minors == list(range(11, minors[-1] + 1))
    assert sys.version_info[1] in minors


# -- what it does, alone -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Installed:
    """An environment with the wheel, its four dependencies, and nothing else."""

    folder: Path

    def run(self, *words: str, home: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.folder / "bin/orchd"), *words],
            env=environment(home, PATH="/usr/bin:/bin"),
            cwd=home,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def pip(self, *words: str) -> str:
        python = str(self.folder / "bin/python")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"),
                *words,
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, symlinks=True)
    alone = Installed(folder)
    alone.pip("install", "--quiet", "--no-index", "--no-deps", str(wheel))
    (packages,) = folder.glob("lib/python3*/site-packages")
    for name in DEPENDENCIES:
        for file in importlib.metadata.files(name) or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.locate(), target)
    return alone


def test_nothing_is_missing_and_nothing_is_broken(installed: Installed) -> None:
    assert "No broken requirements found" in installed.pip("check")
    there = json.loads(installed.pip("list", "--format", "json"))
    assert sorted(each["name"].replace("_", "-") for each in there) == sorted(
        [*DEPENDENCIES, "orchd"]
    )


def test_its_command_runs(installed: Installed, tmp_path: Path) -> None:
    done = installed.run("--version", home=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"orchd {orchd.__version__}\n")


def test_without_any_engine_check_names_both_ways_to_have_one(
    installed: Installed, tmp_path: Path
) -> None:
    if shutil.which("llama-server", path="/usr/bin:/bin"):
        pytest.skip("this machine has a llama-server of its own")
    config = write_config(tmp_path)
    lines = config.read_text().splitlines()
    config.write_text("\n".join(line for line in lines if not line.startswith("binary")))
    done = installed.run("check", "--config", str(config), home=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "no executable llama-server on PATH and no embedded engine" in done.stdout
    assert "write its path as the pool's binary" in done.stdout
    assert "pip install '.[llamacpp]'" in done.stdout


def test_its_daemon_serves_and_stops(installed: Installed, tmp_path: Path) -> None:
    """Tether, guardian and engine are scripts: they have to be found where the wheel puts them."""
    config = write_config(tmp_path, listen=f"unix:{tmp_path}/orchd.sock")
    digest = hashlib.sha256((tmp_path / "model.gguf").read_bytes()).hexdigest()
    (tmp_path / "model.gguf.sha256").write_text(digest)
    words = ("serve", "--config", str(config))
    with subprocess.Popen(
        [str(installed.folder / "bin/orchd"), *words],
        env=environment(tmp_path),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    ) as daemon:
        watch = threading.Timer(2 * TIMEOUT_S, daemon.kill)
        watch.start()
        try:
            assert daemon.stderr is not None
            said = ""
            while "became ready" not in said:
                line = daemon.stderr.readline()
                assert line, said
                said += line
            asked = installed.run("ask", "--config", str(config), "[tokens 2]", home=tmp_path)
            assert (asked.returncode, asked.stdout, asked.stderr) == (0, "t0 t1 \n", "")
            status = installed.run("status", "--config", str(config), home=tmp_path)
            assert (status.returncode, status.stderr) == (0, "")
            daemon.terminate()
            said += daemon.stderr.read()
        finally:
            watch.cancel()
            daemon.kill()
    assert daemon.returncode == 0, said
    assert "WARNING" not in said and "Traceback" not in said

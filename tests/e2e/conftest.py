"""Daemons on the real engine and model, on both executables that the adapter knows, and one on the
fake engine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.daemon import Daemon, running_daemon
from tests.fakes.daemon import RunningDaemon, run_daemon, write_config
from tests.fakes.gate import Gate, gate_in

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="session")
def demo_model() -> Path:
    """The demo model; fetched on first use."""
    if "ORCHD_DEMO_MODEL" in os.environ:
        return Path(os.environ["ORCHD_DEMO_MODEL"])
    command = [sys.executable, str(TOOLS / "demo_model.py")]
    return Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip())


@pytest.fixture(scope="session", params=["embedded", "llama-server"])
def engine_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH on which the daemon finds the wanted executable."""
    if request.param == "embedded":
        return str(tmp_path_factory.mktemp("no-llama-server"))
    found = shutil.which("llama-server")
    if found is None:
        pytest.skip("no llama-server on PATH")
    return str(Path(found).parent)


@pytest.fixture(scope="session")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, demo_model: Path, engine_path: str
) -> Iterator[Daemon]:
    """One daemon for all tests that leave it as it was."""
    with running_daemon(tmp_path_factory.mktemp("daemon"), demo_model, engine_path) as daemon:
        yield daemon


@pytest.fixture
def own_daemon(tmp_path: Path, demo_model: Path, engine_path: str) -> Iterator[Daemon]:
    """A daemon for a test that breaks it."""
    with running_daemon(tmp_path, demo_model, engine_path) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the gates of ``fake_daemon``."""
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="module")
def fake_daemon(tmp_path_factory: pytest.TempPathFactory, gates: Path) -> Iterator[RunningDaemon]:
    """A real daemon on the fake engine, with a slot for every task that a test may have."""
    config = write_config(tmp_path_factory.mktemp("fake-daemon"), slots=64, gates=gates)
    with run_daemon(config) as daemon:
        daemon.hear("became ready")
        yield daemon
        assert "Traceback" not in daemon.log


@pytest.fixture
def gate(gates: Path) -> Iterator[Gate]:
    """Where the fake engine waits for the test."""
    with gate_in(gates) as gate:
        yield gate

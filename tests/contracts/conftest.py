"""The daemons that are held to the contracts: real, on the fake engine, two for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.provoke import Narrow, run_narrow
from tests.fakes.daemon import RunningDaemon, run_daemon, write_config
from tests.fakes.gate import Gate, gate_in


@pytest.fixture(scope="session")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the gates of ``provider``."""
    return tmp_path_factory.mktemp("gates")


@pytest.fixture(scope="session")
def provider(tmp_path_factory: pytest.TempPathFactory, gates: Path) -> Iterator[RunningDaemon]:
    """A pool that is ready."""
    config = write_config(tmp_path_factory.mktemp("provider"), slots=16, gates=gates)
    with run_daemon(config) as daemon:
        daemon.hear("became ready")
        yield daemon
        assert "Traceback" not in daemon.log


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Narrow]:
    """One whose bounds are soon reached."""
    with run_narrow(*map(tmp_path_factory.mktemp, ("narrow", "gates"))) as narrow:
        yield narrow


@pytest.fixture
def gate(gates: Path) -> Iterator[Gate]:
    """Where the fake engine waits for the test."""
    with gate_in(gates) as gate:
        yield gate

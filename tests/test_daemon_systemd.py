"""The real daemon under a service manager: what it tells, in which order, and what engines get."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.fakes.daemon import TIMEOUT_S, run_daemon, write_config
from tests.fakes.service_manager import FakeServiceManager

PRIVATE = (b"NOTIFY_SOCKET=", b"WATCHDOG_", b"CREDENTIALS_DIRECTORY=", b"ORCHD_API_TOKEN=")


def list_children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def manager(tmp_path: Path) -> FakeServiceManager:
    return FakeServiceManager(str(tmp_path / "notify"))


def test_from_ready_to_the_end(tmp_path: Path, manager: FakeServiceManager) -> None:
    told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    config = write_config(tmp_path, load_s=2)
    with manager, run_daemon(config, CREDENTIALS_DIRECTORY=str(tmp_path), **told) as daemon:
        # It listens, so it can be asked; the engine is yet to be loaded.
        assert manager.hear_until("READY")[-1]["READY"] == "1"
        loading = manager.hear_until("STATUS", "loading")[-1]["STATUS"]
        model = tmp_path / "model.gguf"
        assert loading.startswith("0 of 1 replicas ready; chat-0: loading for ")
        assert loading.endswith(f" s ({model} on cpu)")
        manager.hear_until("STATUS", "1 of 1 replicas ready")
        manager.hear_until("WATCHDOG")
        children = list_children(daemon.process.pid)
        assert daemon.hear_engine() in children and len(children) == 2  # and the guardian
        environs = b"".join(Path(f"/proc/{child}/environ").read_bytes() for child in children)
        assert b"LLAMA_API_KEY=" in environs and not any(name in environs for name in PRIVATE)
        stream = daemon.submit("[tokens 1] [hang 1]")
        assert stream.readline().startswith(b"id: 0")
        daemon.signal(signal.SIGTERM)
        stopping = manager.hear_until("STOPPING")
        assert all("READY" not in message for message in stopping)
        assert stopping[-1]["STATUS"] == "stopping: running tasks have 20 s to finish"
        assert int(stopping[-1]["EXTEND_TIMEOUT_USEC"]) > 20_000_000
        manager.hear_until("WATCHDOG")  # a stop that lasts is no stall
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        last = [message["STATUS"] for message in manager.hear_all() if "STATUS" in message]
        assert last == ["stopping: the engines are being stopped"]


def test_one_that_is_aborted_says_where_it_stood(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        daemon.signal(signal.SIGABRT)
        assert daemon.process.wait(TIMEOUT_S) == -signal.SIGABRT
        daemon.hear("Fatal Python error: Aborted")
        daemon.hear("orchd/daemon.py")


def test_a_service_manager_that_is_gone_is_no_harm(
    tmp_path: Path, manager: FakeServiceManager
) -> None:
    with manager:
        pass
    told = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    with run_daemon(write_config(tmp_path), WATCHDOG_PID=str(os.getpid()), **told) as daemon:
        daemon.hear("the service manager does not hear us")
        daemon.hear("became ready")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log

"""The socket to the service manager: what is sent, and that it holds up and ends nothing."""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

import pytest

from orchd.systemd.notifier import Notifier
from tests.fakes.service_manager import FakeServiceManager


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name = f"orchd-test-{secrets.token_hex(8)}"
    return f"@{name}" if request.param == "abstract" else str(tmp_path / "notify")


def test_a_message_arrives(address: str) -> None:
    with FakeServiceManager(address) as manager:
        notifier = Notifier({"NOTIFY_SOCKET": address})
        assert notifier.is_heard
        assert notifier.send({"READY": "1", "STATUS": "loading"})
        assert manager.hear() == {"READY": "1", "STATUS": "loading"}
        notifier.close()
        assert not notifier.send({"STATUS": "too late"})
        assert manager.hear_all() == []


def test_the_watchdog_is_ours_or_none() -> None:
    environ = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "4000000"}
    for pid, span_s in ((os.getpid(), 4.0), (os.getppid(), None)):
        notifier = Notifier(environ | {"WATCHDOG_PID": str(pid)})
        assert notifier.watchdog_s == span_s
        notifier.close()


def test_without_a_service_manager_nothing_is_sent(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"WATCHDOG_USEC": "4000000"})
    assert not notifier.is_heard
    assert not notifier.send({"READY": "1"})
    notifier.close()
    assert caplog.records == []


def test_a_socket_of_another_kind_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    assert not Notifier({"NOTIFY_SOCKET": "vsock:2:99"}).is_heard
    assert "vsock:2:99" in caplog.text


def test_one_that_does_not_listen_costs_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    with caplog.at_level(logging.DEBUG):
        assert [notifier.send({"WATCHDOG": "1"}) for _ in range(3)] == [False] * 3
    assert len(caplog.records) == 1
    with FakeServiceManager(str(tmp_path / "notify")) as manager:
        assert notifier.send({"WATCHDOG": "1"})  # it has come back
        assert manager.hear() == {"WATCHDOG": "1"}
    notifier.close()


def test_one_that_does_not_read_is_not_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeServiceManager(str(tmp_path / "notify")) as manager:
        notifier = Notifier({"NOTIFY_SOCKET": manager.address})
        sent = 0
        while notifier.send({"STATUS": "x" * 400}):
            sent += 1
        assert sent == len(manager.hear_all())
        assert notifier.send({"STATUS": "y"})
        assert manager.hear() == {"STATUS": "y"}
        notifier.close()
    assert caplog.records == []

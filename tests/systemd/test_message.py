"""The protocol to the service manager, as values."""

from __future__ import annotations

import pytest

from orchd.systemd.message import encode, find_address, find_watchdog_s


@pytest.mark.parametrize(
    ("named", "address"),
    [
        ("/run/systemd/notify", b"/run/systemd/notify"),
        ("@a/b\u00e9", "\0a/b\u00e9".encode()),
        ("/run/\udcff", b"/run/\xff"),
        ("vsock:2:1234", None),
        ("notify", None),
        ("", None),
    ],
)
def test_where_to_speak(named: str, address: bytes | None) -> None:
    assert find_address({"NOTIFY_SOCKET": named}) == address
    assert find_address({}) is None


@pytest.mark.parametrize(
    ("environ", "span_s"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": ""}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
        ({"WATCHDOG_USEC": "1.5"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_PID": "7"}, None),
    ],
)
def test_how_often_to_be_heard(environ: dict[str, str], span_s: float | None) -> None:
    assert find_watchdog_s(environ, 7) == span_s


def test_a_message_has_a_line_for_each_field() -> None:
    assert encode({"READY": "1", "STATUS": "grüß dich"}) == "READY=1\nSTATUS=grüß dich".encode()


def test_what_an_engine_said_makes_no_field_of_its_own() -> None:
    said = "out of memory\r\nMAINPID=1\nREADY=1\x00\u2028STOPPING=1\x85WATCHDOG=trigger"
    assert encode({"STATUS": said}).splitlines() == [
        b"STATUS=out of memory MAINPID=1 READY=1 STOPPING=1 WATCHDOG=trigger"
    ]


def test_a_value_is_bounded_and_always_text() -> None:
    message = encode({"STATUS": "\udcff" + "\u20ac" * 5000})
    assert len(message) < 4096
    assert message.decode().endswith("\u20ac…")
    assert message.startswith(b"STATUS=\\udcff")

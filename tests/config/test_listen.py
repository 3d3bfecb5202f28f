"""Addresses as the configuration writes them."""

import pytest

from orchd.config.listen import Listen, UnixListen, parse_listen, warn_of_exposure
from orchd.config.marks import Unfit


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        pytest.param("127.0.0.1:8642", "127.0.0.1", 8642, True, id="v4-loopback"),
        pytest.param("127.8.9.10:1", "127.8.9.10", 1, True, id="all-of-127-is-loopback"),
        pytest.param("0.0.0.0:8642", "0.0.0.0", 8642, False, id="every-interface"),
        pytest.param("192.168.1.5:0", "192.168.1.5", 0, False, id="port-0"),
        pytest.param("[::1]:65535", "::1", 65535, True, id="v6-loopback-highest-port"),
        pytest.param("[::]:80", "::", 80, False, id="v6-every-interface"),
        pytest.param("[::ffff:127.0.0.1]:80", "::ffff:127.0.0.1", 80, True, id="mapped-loopback"),
        pytest.param("[::ffff:10.0.0.1]:80", "::ffff:10.0.0.1", 80, False, id="mapped-other"),
        pytest.param("localhost:80", "localhost", 80, True, id="localhost"),
        pytest.param("LocalHost:80", "LocalHost", 80, True, id="localhost-any-case"),
        pytest.param("gpu-box.lan:80", "gpu-box.lan", 80, False, id="a-name"),
        pytest.param("localhost.evil.example:80", "localhost.evil.example", 80, False, id="alike"),
    ],
)
def test_address_is_split_and_its_reach_known(
    text: str, host: str, port: int, is_loopback: bool
) -> None:
    listen = parse_listen(text)
    assert listen == Listen(host, port)
    assert str(listen) == text
    assert listen.is_loopback is is_loopback
    assert (warn_of_exposure(listen, text) is None) is is_loopback


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("127.0.0.1", id="no-port"),
        pytest.param("127.0.0.1:", id="empty-port"),
        pytest.param(":8642", id="no-host"),
        pytest.param("127.0.0.1:65536", id="port-too-high"),
        pytest.param("127.0.0.1:-1", id="negative-port"),
        pytest.param("127.0.0.1:+80", id="signed-port"),
        pytest.param("127.0.0.1:٨٠", id="foreign-digits"),
        pytest.param("127.0.0.1:80\n", id="trailing-newline"),
        pytest.param("127.0.0.256:80", id="octet-too-high"),
        pytest.param("127.1:80", id="short-v4"),
        pytest.param("::1:80", id="v6-without-brackets"),
        pytest.param("[127.0.0.1]:80", id="v4-in-brackets"),
        pytest.param("[::1:80", id="half-a-bracket"),
        pytest.param("[zz]:80", id="nonsense-in-brackets"),
        pytest.param("a b:80", id="space"),
        pytest.param("-a.lan:80", id="leading-hyphen"),
        pytest.param("a..lan:80", id="empty-label"),
        pytest.param("http://localhost:80", id="a-url"),
        pytest.param("unix:", id="unix-nothing"),
        pytest.param("unix:/", id="unix-root"),
        pytest.param("unix:/run/", id="unix-folder"),
        pytest.param("unix:orchd.sock", id="unix-relative"),
        pytest.param("unix:~/orchd.sock", id="unix-home"),
        pytest.param("unix://host/orchd.sock/", id="unix-url"),
        pytest.param(".".join(["a" * 60] * 5) + ":80", id="name-too-long"),
    ],
)
def test_anything_else_is_unfit(text: str) -> None:
    assert isinstance(parse_listen(text), Unfit)


@pytest.mark.parametrize("path", ["/run/orchd.sock", "/a b:1", "/ä"])
def test_a_unix_socket(path: str) -> None:
    listen = parse_listen(f"unix:{path}")
    assert listen == UnixListen(path)
    assert str(listen) == f"unix:{path}"
    assert listen.is_loopback


def test_a_path_is_as_long_as_the_kernel_takes_it() -> None:
    longest = "/" + "ä" * 53
    assert parse_listen(f"unix:{longest}") == UnixListen(longest)
    unfit = parse_listen(f"unix:{longest}b")
    assert isinstance(unfit, Unfit)
    assert "at most 107 bytes (this one has 108); choose a shorter one" in unfit.wanted

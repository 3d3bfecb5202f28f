"""Where the daemon listens, as a value.

Nothing is resolved or looked at here: a host name stays a name, a path may or may not be there, and
only ``localhost`` is taken on trust to mean this machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from orchd.config.marks import Unfit

_WANTED = '"host:port" or "[IPv6]:port" with a port from 0 to 65535, or "unix:/path"'
_UNIX = "unix:"
_PATH_BYTES_MAX = 107
"""What the kernel keeps of a socket's path (unix(7): 108 with the NUL)."""
_PORT = re.compile(r"[0-9]{1,5}")
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*")


@dataclass(frozen=True, slots=True)
class Listen:
    """A TCP address; ``host`` carries no brackets, port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it, as far as the text alone can tell."""
        address = _parse_address(self.host)
        if address is None:
            return self.host.lower() == "localhost"
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            return address.ipv4_mapped.is_loopback
        return address.is_loopback


@dataclass(frozen=True, slots=True)
class UnixListen:
    """A unix socket, at an absolute path."""

    path: str

    def __str__(self) -> str:
        return _UNIX + self.path

    @property
    def is_loopback(self) -> bool:
        """Nobody on another machine can reach it."""
        return True


AnyListen = Listen | UnixListen


def warn_of_exposure(listen: AnyListen, address: str) -> str | None:
    """A sentence where others than this machine can reach it; ``address`` is how it is named."""
    if listen.is_loopback:
        return None
    return (
        f"{address} is reachable from other machines: the token is all that guards it, and goes"
        " over the network unencrypted; listen on 127.0.0.1 unless that is meant"
    )


def parse_listen(text: str) -> AnyListen | Unfit:
    """Read ``unix:/path`` or ``host:port``; IPv6 needs its brackets (RFC 3986, section 3.2.2)."""
    if text.startswith(_UNIX):
        return _parse_unix(text.removeprefix(_UNIX))
    host, _, port = text.rpartition(":")
    if not _PORT.fullmatch(port) or int(port) > 65535:
        return Unfit(_WANTED)
    if host.startswith("[") and host.endswith("]"):
        inner = host[1:-1]
        return Listen(inner, int(port)) if _is_ipv6(inner) else Unfit(_WANTED)
    if not _is_ipv4(host) and not _is_name(host):
        return Unfit(_WANTED)
    return Listen(host, int(port))


def _parse_unix(path: str) -> UnixListen | Unfit:
    if not path.startswith("/") or path.endswith("/"):
        return Unfit('"unix:" and the absolute path of a socket, such as "unix:/run/orchd.sock"')
    size_bytes = len(path.encode("utf-8", "surrogateescape"))
    if size_bytes > _PATH_BYTES_MAX:
        limit = f"of at most {_PATH_BYTES_MAX} bytes (this one has {size_bytes})"
        return Unfit(f'"unix:" and a path {limit}; choose a shorter one, such as in /run')
    return UnixListen(path)


def _parse_address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_ipv4(host: str) -> bool:
    return isinstance(_parse_address(host), IPv4Address)


def _is_ipv6(host: str) -> bool:
    return isinstance(_parse_address(host), IPv6Address)


def _is_name(host: str) -> bool:
    # A name that ends in a number is a mistyped address (127.0.0.256, 127.1): resolvers take some
    # of those, each in its own way.
    return (
        len(host) <= 253
        and _NAME.fullmatch(host) is not None
        and not host.rpartition(".")[2].isdigit()
    )

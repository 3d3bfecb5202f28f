"""Ports on the loopback: one that is free, and the one on which a daemon's engine answers."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class EngineDoor:
    """Where an engine answers, and the key that it takes."""

    port: int
    key: str = field(repr=False)


def find_free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def find_engine_door(pid: int) -> EngineDoor:
    """Of the llama.cpp engine with that pid; its key is read as only its owner can."""
    proc = Path(f"/proc/{pid}")
    argv = proc.joinpath("cmdline").read_bytes().decode().split("\0")
    variables = proc.joinpath("environ").read_bytes().decode().split("\0")
    environ = dict(variable.split("=", 1) for variable in variables if variable)
    key = environ["LLAMA_API_KEY"]
    assert not any(key in argument for argument in argv)
    return EngineDoor(int(argv[argv.index("--port") + 1]), key)

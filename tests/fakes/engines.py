"""Makes the fake ``llama-server`` a program that a pool can name, and looks after its processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path

from tests.fakes.gguf import write_head

_SCRIPT = Path(__file__).with_name("llama_server.py")
_MODEL_HEAD = write_head(
    {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
    }
)


def install_engine(folder: Path) -> Path:
    """Write the program into a folder; returns its path."""
    program = folder / "llama-server"
    command = shlex.join([sys.executable, "-I", "-S", str(_SCRIPT)])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    return program


def write_model(folder: Path, size_bytes: int = 1000) -> Path:
    """Write a file of that size, for a model of two small layers; returns its path."""
    model = folder / "model.gguf"
    model.write_bytes(_MODEL_HEAD.ljust(size_bytes, b"\0"))
    return model


def list_session(session: int) -> list[int]:
    """The living processes of a session, by pid; a zombie does not live."""
    return [pid for pid, state, _, its in _list_processes() if its == session and state not in "ZX"]


def list_children(parent: int | None = None) -> list[int]:
    """A process's own children that are not reaped, zombies too; ours, where none is named."""
    whose = os.getpid() if parent is None else parent
    return [pid for pid, _, its, _ in _list_processes() if its == whose]


def count_descriptors() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _list_processes() -> list[tuple[int, str, int, int]]:
    """Every process: pid, state, parent, session."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # proc_pid_stat(5): behind the name in parentheses: state, ppid, pgrp, session.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            found.append((int(entry.name), fields[0], int(fields[1]), int(fields[3])))
    return found

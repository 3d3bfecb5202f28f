"""Makes the fake ``llama-server`` a program that a pool can name, and looks after its processes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.gguf import TENSOR_F32, Tensor, Value, write_head, write_sparse
from tests.fakes.llama_faults import MIB, model_faults

_SCRIPT = Path(__file__).with_name("llama_server.py")
_VLLM = Path(__file__).with_name("vllm_server.py")
_FACTS: Mapping[str, Value] = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 128,
    "llama.attention.head_count": 4,
}
_MODEL_HEAD = write_head(_FACTS)


def install_engine(folder: Path) -> Path:
    """Write the program into a folder; returns its path."""
    program = folder / "llama-server"
    command = shlex.join([sys.executable, "-I", "-S", str(_SCRIPT)])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    return program


def install_vllm(folder: Path) -> Path:
    """Write the fake ``vllm`` into a folder; returns its path."""
    program = folder / "vllm"
    command = shlex.join([sys.executable, "-I", "-S", str(_VLLM)])
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    return program


def write_model(folder: Path, size_bytes: int = 1000) -> Path:
    """Write a file of that size, for a model of two small layers; returns its path."""
    model = folder / "model.gguf"
    model.write_bytes(_MODEL_HEAD.ljust(size_bytes, b"\0"))
    return model


def write_heavy_model(model: Path, weights_mib: int, /, **faults: object) -> Path:
    """Write a model with so much to load, which takes no room on the disk, and what goes wrong with
    its engines alone; returns its path."""
    weights = Tensor("blk.0.ffn_up.weight", (1024, 256 * weights_mib), TENSOR_F32)
    write_sparse(model, write_head(_FACTS, [weights]), weights_mib * MIB)
    told = {name: value if isinstance(value, int) else str(value) for name, value in faults.items()}
    model_faults(model).write_text(json.dumps(told))
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

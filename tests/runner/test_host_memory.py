"""The machine's own memory, and what a process holds of it."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from orchd.runner.host_memory import read_anonymous_bytes, read_host_memory
from orchd.runner.snapshot import HostMemory

SIZE = 64 << 20


def test_total_and_available_are_told_in_bytes(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable: 8 kB\nHugePages_Free: 0\n")
    assert read_host_memory(meminfo) == HostMemory(16 * 1024, 8 * 1024)


def test_what_the_kernel_does_not_tell_is_none(tmp_path: Path) -> None:
    assert read_host_memory(tmp_path / "no") == HostMemory(0, 0)


def test_this_machines_own() -> None:
    memory = read_host_memory()
    assert 0 < memory.available_bytes <= memory.total_bytes


def test_a_mapped_file_is_not_held_and_written_memory_is(tmp_path: Path) -> None:
    before = read_anonymous_bytes(os.getpid())
    assert before > 0
    model = tmp_path / "model"
    model.write_bytes(bytes(SIZE))
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for place in range(0, SIZE, mmap.PAGESIZE):
            mapped[place]
        assert read_anonymous_bytes(os.getpid()) - before < SIZE // 2
    with mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as anonymous:
        for place in range(0, SIZE, mmap.PAGESIZE):
            anonymous[place] = 1
        assert read_anonymous_bytes(os.getpid()) - before > SIZE // 2


def test_a_process_that_is_gone_holds_nothing() -> None:
    assert read_anonymous_bytes(2**22 + 1) == 0

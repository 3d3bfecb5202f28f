"""The fake clock: a shared library that is preloaded, and the file that it reads its offset from.

Only the wall clock jumps; what counts by a monotonic clock is to notice nothing.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("clock.c")
_OFFSET = struct.Struct("=q")


def build_clock(folder: Path, *flags: str) -> Path:
    """Compile it into a folder; returns the library. Skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake clock with")
    library = folder / "libfakeclock.so"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags]
    subprocess.run([*command, "-o", str(library), str(_SOURCE), "-ldl"], check=True, timeout=60)
    return library


class FakeClock:
    """The wall clock of every process that is started with its environment."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self._offset_ns = 0
        self._file.write_bytes(_OFFSET.pack(0))

    def environment(self, library: Path) -> dict[str, str]:
        """What a process needs to live by this clock."""
        return {"LD_PRELOAD": str(library), "FAKE_CLOCK": str(self._file)}

    @property
    def offset_s(self) -> float:
        """How far it is ahead of the real one."""
        return self._offset_ns / 1e9

    def jump(self, by_s: float) -> None:
        """Forth, or back where negative, from where it is now."""
        self._offset_ns += round(by_s * 1e9)
        # In place and in one piece: whoever reads has the file mapped.
        with self._file.open("r+b", buffering=0) as file:
            file.write(_OFFSET.pack(self._offset_ns))

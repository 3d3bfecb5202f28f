"""The fake NVML: a shared library that the real ``pynvml`` loads, and the file that it reads.

The cards stand in a file that a test rewrites while the library is in use; processes that take
memory write a file each. ``FakeNvml.read`` tells the same without the library, for tests in one
process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest

from orchd.runner.snapshot import Gpu, GpuProcess, NoReading, Reading, Unread

_SOURCE = Path(__file__).with_name("nvml.c")
MIB = 1 << 20


def build_nvml(folder: Path, *flags: str) -> Path:
    """Compile it into a folder for LD_LIBRARY_PATH; skips where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the fake NVML with")
    library = folder / "libnvidia-ml.so.1"
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags]
    subprocess.run([*command, "-o", str(library), str(_SOURCE)], check=True, timeout=60)
    return folder


def uuid_of(number: int) -> str:
    return f"GPU-00000000-0000-0000-0000-{number:012d}"


@dataclass(frozen=True)
class Card:
    """One card, by the keys that the library knows."""

    uuid: str
    name: str
    pci: str
    total_mib: int
    used_mib: int = 0
    """By other programs."""
    utilization: int = 0
    capability: str = "8.6"
    mig: int = -1
    untold: int = 0
    handle_code: int = 0
    pci_code: int = 0
    uuid_code: int = 0
    name_code: int = 0
    memory_code: int = 0
    utilization_code: int = 0
    capability_code: int = 0
    processes_code: int = 0


def card(number: int, total_gib: float, name: str = "NVIDIA Card", **more: int) -> Card:
    """The card with that number on the bus."""
    plain = Card(uuid_of(number), name, f"00000000:{number + 1:02X}:00.0", int(total_gib * 1024))
    return replace(plain, **more)  # type: ignore[arg-type]


@dataclass
class FakeNvml:
    """A machine's cards; every change is there for the next call of the library."""

    folder: Path
    cards: list[Card] = field(default_factory=list)
    settings: dict[str, int] = field(default_factory=dict)
    reason: str | None = None
    """For ``read`` only: why nothing can be read."""
    _died_s: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "taken").mkdir(parents=True, exist_ok=True)
        self.write()

    def write(self, **settings: int) -> None:
        self.settings |= settings
        lines = [f"{key} {value}" for key, value in self.settings.items()]
        for one in self.cards:
            lines += ["card", *(f"{key} {value}" for key, value in asdict(one).items())]
        draft = self.folder / "draft"
        draft.write_text("\n".join(lines) + "\n")
        draft.rename(self.folder / "cards")

    def change(self, place: int, **fields: object) -> None:
        """Set fields of the card at that place in the list."""
        self.cards[place] = replace(self.cards[place], **fields)  # type: ignore[arg-type]
        self.write()

    def environment(self, library: Path) -> dict[str, str]:
        """What a process needs to meet these cards."""
        return {"LD_LIBRARY_PATH": str(library), "FAKE_NVML": str(self.folder)}

    def engine_faults(self, mib: int, lag_ms: int = 0) -> dict[str, object]:
        """What makes the fake engine take memory of its card."""
        return {"vram_folder": self.folder, "vram_mib": mib, "vram_lag_ms": lag_ms}

    def calls(self) -> list[str]:
        """Every initialisation and shutdown so far."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "calls").read_text().split()
        return []

    # -- without the library -------------------------------------------------------------------

    def read(self) -> Reading | NoReading:
        """What ``NvmlReader.read`` would tell."""
        if self.reason is not None:
            return NoReading(self.reason)
        return tuple(self._read_card(index, one) for index, one in enumerate(self.cards))

    def _read_card(self, index: int, one: Card) -> Gpu | Unread:
        if one.handle_code or one.memory_code:
            code = one.handle_code or one.memory_code
            return Unread("has fallen off the bus" if code == 15 else "errs", code == 15)
        holders = [(pid, mib, lives) for pid, uuid, mib, lives in self._taken() if uuid == one.uuid]
        used_mib = min(one.used_mib + sum(mib for _, mib, _ in holders), one.total_mib)
        told = [] if one.untold else [(pid, mib) for pid, mib, lives in holders if lives]
        return Gpu(
            *(one.uuid, index, one.name, one.total_mib * MIB, (one.total_mib - used_mib) * MIB),
            pci_bus_id=one.pci,
            utilization=one.utilization,
            processes=tuple(GpuProcess(pid, pid, mib * MIB) for pid, mib in told),
        )

    def _taken(self) -> Iterator[tuple[int, str, int, bool]]:
        for entry in (self.folder / "taken").iterdir():
            pid = int(entry.name)
            uuid, mib, lag_ms = entry.read_text().split()
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                died_s = self._died_s.setdefault(pid, time.monotonic())
                if (time.monotonic() - died_s) * 1000 < int(lag_ms):
                    yield pid, uuid, int(mib), False
            else:
                yield pid, uuid, int(mib), True

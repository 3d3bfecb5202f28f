"""The machine's own memory, which takes VRAM's place for a replica on the CPU.

Source: proc_meminfo(5), proc_pid_status(5). Neither file blocks.
"""

from __future__ import annotations

from pathlib import Path

from orchd.runner.snapshot import HostMemory

_MEMINFO = Path("/proc/meminfo")
_KIB = 1024


def read_host_memory(meminfo: Path = _MEMINFO) -> HostMemory:
    """The memory now; what the kernel does not tell is none."""
    told = _read_fields(meminfo)
    return HostMemory(told.get("MemTotal", 0), told.get("MemAvailable", 0))


def read_anonymous_bytes(pid: int) -> int:
    """What a process holds that the kernel cannot drop: not the mapped pages of a model file.

    Those count as available to the next program, so they must not count as in use here.
    """
    return _read_fields(Path(f"/proc/{pid}/status")).get("RssAnon", 0)


def _read_fields(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {
        words[0].rstrip(":"): int(words[1]) * _KIB
        for words in fields
        if len(words) == 3 and words[2] == "kB" and words[1].isdigit()
    }

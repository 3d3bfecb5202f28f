"""Which GPUs a pool's ``devices`` allows: ``auto``, UUIDs, indexes, product names or parts of them.

A part of a name that fits GPUs of different products allows none of them: which one was meant is
not for us to guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchd.runner.snapshot import Gpu, Quarantined, Snapshot

AUTO = "auto"
CPU = "cpu"

Known = Gpu | Quarantined


@dataclass(frozen=True, slots=True)
class Allowed:
    """GPUs by UUID, and a sentence for each entry that names none."""

    uuids: frozenset[str]
    complaints: tuple[str, ...]


def allow(devices: Sequence[str], snapshot: Snapshot) -> Allowed:
    """Those GPUs, quarantined ones too, that ``devices`` names."""
    known = [gpu for gpu in snapshot.each() if gpu.uuid is not None]
    uuids: set[str] = set()
    complaints = []
    for device in devices:
        if device == CPU:
            continue
        found = _find(device, known)
        if isinstance(found, str):
            complaints.append(found)
        else:
            uuids.update(gpu.uuid for gpu in found if gpu.uuid is not None)
    return Allowed(frozenset(uuids), tuple(complaints))


def _find(device: str, known: Sequence[Known]) -> Sequence[Known] | str:
    if device == AUTO:
        return known or "there is no NVIDIA GPU"
    seen = ", ".join(label(gpu) for gpu in known) or "none"
    if device.isdigit() and len(device) <= 2:
        return [gpu for gpu in known if gpu.index == int(device)] or (
            f"there is no GPU {device} (seen: {seen})"
        )
    if device.startswith("GPU-"):
        # Every UUID is written in lower case here, whatever the driver does.
        return [gpu for gpu in known if (gpu.uuid or "").lower() == device.lower()] or (
            f"there is no {device} (seen: {', '.join(gpu.uuid or '' for gpu in known) or 'none'})"
        )
    matches = [gpu for gpu in known if device.lower() in (gpu.name or "").lower()]
    whole = [gpu for gpu in matches if device.lower() == (gpu.name or "").lower()]
    names = sorted({gpu.name or "" for gpu in whole or matches})
    if len(names) > 1:
        return f'"{device}" could be any of {", ".join(names)}; write more of the name'
    return whole or matches or f'no GPU is named "{device}" (seen: {seen})'


def label(gpu: Known) -> str:
    """For people: ``GPU 0 (NVIDIA GeForce RTX 3090)``."""
    return f"GPU {gpu.index} ({gpu.name})" if gpu.name else f"GPU {gpu.index}"

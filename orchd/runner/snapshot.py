"""The GPUs at one moment, as frozen values, and how one moment follows from another.

A GPU is known by its UUID from the moment it was first read, and keeps the index that it had then:
NVML's own indexes move up when a card drops out. One that errs or vanishes is quarantined with its
reason until it reads well again; the others are not touched by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

LOST_SAMPLES = 2
"""In how many readings in a row a GPU is lost before that is believed."""

VANISHED = "is no longer among the NVIDIA driver's devices"


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process that holds memory of a GPU, as the driver tells it."""

    pid: int
    session: int | None
    """Its session here; None where the driver's pid means nothing (in a container)."""
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU that could be read."""

    uuid: str
    index: int
    """In NVML's order."""
    name: str
    total_bytes: int
    free_bytes: int
    pci_bus_id: str | None = None
    utilization: int | None = None
    """Percent of the time; None where the driver does not tell."""
    compute_capability: str | None = None
    processes: tuple[GpuProcess, ...] = ()
    """Empty also where the driver does not tell them."""

    @property
    def used_bytes(self) -> int:
        return self.total_bytes - self.free_bytes

    def bytes_of(self, session: int) -> int | None:
        """What the processes of a session hold; None where the driver does not tell."""
        told = [process.used_bytes for process in self.processes if process.session == session]
        known = [size for size in told if size is not None]
        return sum(known) if known and len(known) == len(told) else None


@dataclass(frozen=True, slots=True)
class Unread:
    """What the driver said instead of a GPU."""

    reason: str
    is_lost: bool = False
    """It cannot compute any more either, so what runs on it is dead."""
    uuid: str | None = None
    pci_bus_id: str | None = None


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The machine's own memory: all of it, and what a new program could have without swapping."""

    total_bytes: int
    available_bytes: int


Reading = Sequence[Gpu | Unread]
"""What NVML told, in its own order."""


@dataclass(frozen=True, slots=True)
class NoReading:
    """NVML told nothing at all; the reason is a sentence for the user."""

    reason: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A GPU that no replica may be placed on now; None is what was never read."""

    uuid: str | None
    index: int
    name: str | None
    total_bytes: int | None
    pci_bus_id: str | None
    reason: str
    lost_samples: int = 0

    @property
    def is_lost(self) -> bool:
        return self.lost_samples >= LOST_SAMPLES


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All GPUs at one moment, each of them once, both kinds in the order of their indexes."""

    gpus: tuple[Gpu, ...] = ()
    quarantined: tuple[Quarantined, ...] = ()
    reason: str | None = None
    """Why none can be read; None where NVML answered."""
    order: tuple[str | None, ...] = ()
    """UUIDs in NVML's order of the last reading."""

    def find(self, uuid: str) -> Gpu | None:
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)

    def find_quarantined(self, uuid: str) -> Quarantined | None:
        return next((gpu for gpu in self.quarantined if gpu.uuid == uuid), None)

    def each(self) -> Sequence[Gpu | Quarantined]:
        """Both kinds in one order."""
        return sorted((*self.gpus, *self.quarantined), key=lambda gpu: (gpu.index, gpu.uuid or ""))


def quarantine(snapshot: Snapshot, reasons: Mapping[str, str]) -> Snapshot:
    """The same moment, with those GPUs quarantined that ``reasons`` has by UUID."""
    taken = [gpu for gpu in snapshot.gpus if gpu.uuid in reasons]
    if not taken:
        return snapshot
    gpus = tuple(gpu for gpu in snapshot.gpus if gpu.uuid not in reasons)
    ours = (_quarantine(gpu, reasons[gpu.uuid], is_lost=False) for gpu in taken)
    quarantined = sorted((*snapshot.quarantined, *ours), key=lambda gpu: gpu.index)
    return replace(snapshot, gpus=gpus, quarantined=tuple(quarantined))


UNSEEN = Snapshot(reason="the NVIDIA driver has not been asked yet")


def follow(before: Snapshot, reading: Reading | NoReading) -> Snapshot:
    """The moment after ``before``, by what NVML has told since."""
    known = {gpu.uuid: gpu for gpu in before.each() if gpu.uuid is not None}
    if isinstance(reading, NoReading):
        held = tuple(_quarantine(gpu, reading.reason, is_lost=False) for gpu in known.values())
        return Snapshot((), held, reading.reason, before.order)
    order = tuple(_name_all(before, reading, known))
    indexes = _give_indexes(order, known)
    gpus, quarantined = [], []
    for place, (uuid, item) in enumerate(zip(order, reading, strict=True)):
        if isinstance(item, Gpu):
            gpus.append(replace(item, index=indexes[item.uuid]))
        elif uuid in known:
            quarantined.append(_quarantine(known[uuid], item.reason, is_lost=item.is_lost))
        else:
            index = indexes[uuid] if uuid is not None else place
            reason, bus_id = item.reason, item.pci_bus_id
            quarantined.append(
                Quarantined(uuid, index, None, None, bus_id, reason, int(item.is_lost))
            )
    gone = (gpu for uuid, gpu in known.items() if uuid not in order)
    quarantined += [_quarantine(gpu, VANISHED, is_lost=True) for gpu in gone]
    return Snapshot(
        tuple(sorted(gpus, key=lambda gpu: gpu.index)),
        tuple(sorted(quarantined, key=lambda gpu: gpu.index)),
        None,
        order,
    )


def _name_all(
    before: Snapshot, reading: Reading, known: Mapping[str, Gpu | Quarantined]
) -> Iterator[str | None]:
    """The UUID of each item, also where a GPU that errs does not tell its own any more."""
    told = {item.uuid for item in reading if item.uuid is not None}
    by_bus_id = {gpu.pci_bus_id: uuid for uuid, gpu in known.items() if gpu.pci_bus_id}
    # A place means the same only while the list is as long as it was.
    by_place = before.order if len(before.order) == len(reading) else ()
    for place, item in enumerate(reading):
        remembered: str | None = None
        if item.pci_bus_id is not None:
            remembered = by_bus_id.get(item.pci_bus_id)
        elif by_place:
            remembered = by_place[place]
        yield item.uuid or (remembered if remembered not in told else None)


def _give_indexes(
    order: Sequence[str | None], known: Mapping[str, Gpu | Quarantined]
) -> dict[str, int]:
    """An index for each: its old one, else its place, else the next that nobody has."""
    indexes = {uuid: gpu.index for uuid, gpu in known.items()}
    for place, uuid in enumerate(order):
        if uuid is not None and uuid not in indexes:
            taken = set(indexes.values())
            free = (index for index in (place, *range(len(taken) + 1)) if index not in taken)
            indexes[uuid] = next(free)
    return indexes


def _quarantine(gpu: Gpu | Quarantined, reason: str, *, is_lost: bool) -> Quarantined:
    so_far = gpu.lost_samples if isinstance(gpu, Quarantined) else 0
    return Quarantined(
        *(gpu.uuid, gpu.index, gpu.name, gpu.total_bytes, gpu.pci_bus_id, reason),
        lost_samples=so_far + 1 if is_lost else 0,
    )

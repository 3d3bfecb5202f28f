"""GPUs to test with: written in one line each."""

from __future__ import annotations

from orchd.runner.footprint import MIB, Footprint
from orchd.runner.placement import Machine, Needs, Reservation
from orchd.runner.snapshot import Gpu, GpuProcess, HostMemory, Snapshot, follow

GIB = 1024 * MIB
NO_HOST = HostMemory(0, 0)


def gpu(
    index: int,
    total_gib: float,
    free_gib: float | None = None,
    *,
    name: str | None = None,
    held: dict[int, float | None] | None = None,
) -> Gpu:
    """The GPU ``GPU-<index>``; ``held`` has what sessions hold, in GiB."""
    free = total_gib if free_gib is None else free_gib
    processes = tuple(
        GpuProcess(session, session, None if size is None else int(size * GIB))
        for session, size in (held or {}).items()
    )
    return Gpu(
        *(f"GPU-{index}", index, name or f"card {index}", int(total_gib * GIB), int(free * GIB)),
        pci_bus_id=f"bus {index}",
        processes=processes,
    )


def need(gib: float, on_cpu_gib: float | None = None) -> Needs:
    """The same on either kind of device, unless another need is given for the CPU."""
    on_gpu = Footprint(int(gib * GIB), "as written")
    if on_cpu_gib is None:
        return Needs(on_gpu, on_gpu)
    return Needs(on_gpu, Footprint(int(on_cpu_gib * GIB), "for the CPU"))


def need_bytes(size_bytes: int) -> Needs:
    footprint = Footprint(size_bytes, "")
    return Needs(footprint, footprint)


def seen(*gpus: Gpu) -> Snapshot:
    return follow(Snapshot(), gpus)


def machine(*gpus: Gpu, reserved: tuple[Reservation, ...] = (), ram_gib: float = 0) -> Machine:
    host = HostMemory(int(ram_gib * GIB), int(ram_gib * GIB))
    return Machine(seen(*gpus), host, reserved)


def promised(device: str, gib: float, used_gib: float = 0, replica_id: str = "r") -> Reservation:
    return Reservation(replica_id, device, int(gib * GIB), int(used_gib * GIB))

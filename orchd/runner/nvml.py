"""Reads the GPUs through NVML. It may block for seconds or for ever: never on the event loop.

NVML stays initialised between readings. Its list of devices is that of its initialisation, and
after a suspend, a driver reload or a GPU's loss it goes on failing until it is initialised afresh;
so that is done at the first failure that may come of it, and from time to time while it lasts.

Source: NVIDIA's NVML API reference, through ``nvidia-ml-py`` (the module ``pynvml``).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pynvml

from orchd.runner.snapshot import Gpu, GpuProcess, NoReading, Reading, Unread

T = TypeVar("T")

REOPEN_S = 10.0
"""How often NVML is initialised afresh while something fails; each time wakes idle GPUs."""

_DRIVER_GPUS = Path("/proc/driver/nvidia/gpus")

_SENTENCES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "no NVIDIA driver is installed (libnvidia-ml.so.1); a pool may run without a GPU only where"
        ' it says devices = ["cpu"]'
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "the NVIDIA driver is installed but not loaded; modprobe nvidia, as root, loads it or"
        " says why not"
    ),
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "the NVIDIA driver may not be used by this user; see who may open /dev/nvidiactl (ls -l),"
        " and in a unit its DeviceAllow"
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver and its library differ in version, as after an upgrade; start orchd"
        " again, and if that does not help, the machine"
    ),
}
_GPU_SENTENCES = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "has fallen off the bus",
    pynvml.NVML_ERROR_NO_PERMISSION: (
        "may not be used by this user; see who may open /dev/nvidia* (ls -l), and in a unit its"
        " DeviceAllow"
    ),
    pynvml.NVML_ERROR_NOT_SUPPORTED: "does not tell its memory, so nothing can be placed by it",
    pynvml.NVML_ERROR_RESET_REQUIRED: "has to be reset",
}
_IMPOSSIBLE = "tells more memory free than it has, so nothing can be placed by it"
_DIVIDED = "is divided into MIG instances; orchd uses whole GPUs"
_HEALED_AFRESH = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
    pynvml.NVML_ERROR_OPERATING_SYSTEM,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_GPU_NOT_FOUND,
    pynvml.NVML_ERROR_UNKNOWN,
}
"""What may end once NVML is initialised afresh."""


class NvmlReader:
    """NVML as long as this process lives; one thread at a time may ask it."""

    def __init__(self, reopen_s: float = REOPEN_S, driver_gpus: Path = _DRIVER_GPUS) -> None:
        self._reopen_s = reopen_s
        self._driver_gpus = driver_gpus
        self._is_open = False
        self._opened_with: tuple[str, ...] = ()
        self._reopened_s = float("-inf")
        self._most = 0

    def read(self) -> Reading | NoReading:
        """Every GPU now, in NVML's order."""
        reading, is_sick = self._try_read()
        now_s = time.monotonic()
        if is_sick and now_s - self._reopened_s >= self._reopen_s:
            self._reopened_s = now_s
            self.close()
            reading, _ = self._try_read()
        return reading

    def close(self) -> None:
        """Shut NVML down; the next reading initialises it."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _try_read(self) -> tuple[Reading | NoReading, bool]:
        """What NVML tells, and whether it should be initialised afresh."""
        try:
            if not self._is_open:
                self._opened_with = self._list_driver_gpus()
                pynvml.nvmlInit()
                self._is_open = True
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            reason = _SENTENCES.get(error.value, f"the NVIDIA driver fails: {error}")
            return NoReading(reason), self._is_open
        items, codes = [], set()
        for index in range(count):
            item, code = _try_gpu(index)
            items.append(item)
            codes.add(code)
        self._most = max(self._most, count)
        has_moved = count < self._most or self._opened_with != self._list_driver_gpus()
        return tuple(items), has_moved or bool(codes & _HEALED_AFRESH)

    def _list_driver_gpus(self) -> tuple[str, ...]:
        """The cards that the driver itself knows; empty where that is not to be seen."""
        try:
            return tuple(sorted(entry.name for entry in self._driver_gpus.iterdir()))
        except OSError:
            return ()


def _try_gpu(index: int) -> tuple[Gpu | Unread, int | None]:
    """One GPU, and the code that its reading failed with."""
    bus_id: str | None = None
    uuid: str | None = None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        bus_id = _try(lambda: str(pynvml.nvmlDeviceGetPciInfo(handle).busId))
        uuid = str(pynvml.nvmlDeviceGetUUID(handle))
        if _try(lambda: bool(pynvml.nvmlDeviceGetMigMode(handle)[0])):
            return Unread(_DIVIDED, uuid=uuid, pci_bus_id=bus_id), None
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        if memory.free > memory.total:
            return Unread(_IMPOSSIBLE, uuid=uuid, pci_bus_id=bus_id), None
        gpu = Gpu(
            uuid=uuid,
            index=index,
            name=str(pynvml.nvmlDeviceGetName(handle)),
            total_bytes=int(memory.total),
            free_bytes=int(memory.free),
            pci_bus_id=bus_id,
            utilization=_try(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
            compute_capability=_try(lambda: _read_capability(handle)),
            processes=_try(lambda: _read_processes(handle)) or (),
        )
    except pynvml.NVMLError as error:
        reason = _GPU_SENTENCES.get(error.value, f"cannot be read: {error}")
        is_lost = error.value == pynvml.NVML_ERROR_GPU_IS_LOST
        return Unread(reason, is_lost, uuid, bus_id), error.value
    except UnicodeDecodeError:
        return Unread("cannot be read: it tells what is no text", False, uuid, bus_id), None
    return gpu, None


def _try(ask: Callable[[], T]) -> T | None:
    """What not every GPU or driver tells; a GPU that is lost is lost all the same."""
    try:
        return ask()
    except pynvml.NVMLError as error:
        if error.value == pynvml.NVML_ERROR_GPU_IS_LOST:
            raise
        return None


def _read_capability(handle: object) -> str:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return f"{major}.{minor}"


def _read_processes(handle: object) -> tuple[GpuProcess, ...]:
    # By version: the name without one raises what is no NVMLError where a driver is older.
    try:
        told = pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_FUNCTION_NOT_FOUND:
            raise
        told = pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)
    return tuple(
        GpuProcess(process.pid, _session_of(process.pid), process.usedGpuMemory) for process in told
    )


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None

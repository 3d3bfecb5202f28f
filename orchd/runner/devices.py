"""What NVML tells of the GPUs. NVML may block for seconds, so nothing here runs on the event loop.

Source: NVIDIA's NVML API reference, through ``nvidia-ml-py`` (the module ``pynvml``).
"""

from __future__ import annotations

import logging

import pynvml

from orchd.errors import HostError
from orchd.runner.placement import Gpu

log = logging.getLogger(__name__)

_SENTENCES = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "no NVIDIA driver is installed (libnvidia-ml.so.1); a pool may run without a GPU only where"
        ' it says devices = ["cpu"]'
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded",
    pynvml.NVML_ERROR_NO_PERMISSION: "the NVIDIA driver may not be used by this user",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "the NVIDIA driver and its library differ in version; a reboot mends it"
    ),
}


def sample_gpus() -> tuple[Gpu, ...]:
    """Every GPU now, in NVML's order. Blocks: call it in a thread.

    One that cannot be read (it has fallen off the bus, it has no memory of its own) is passed
    over, for the others serve on. Raises HostError with a sentence for the user where NVML cannot
    tell of any.
    """
    try:
        pynvml.nvmlInit()
        try:
            seen = [_try_gpu(index) for index in range(pynvml.nvmlDeviceGetCount())]
            return tuple(gpu for gpu in seen if gpu is not None)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise HostError(_SENTENCES.get(error.value, f"NVML failed: {error}")) from error


def _try_gpu(index: int) -> Gpu | None:
    try:
        return _read_gpu(index)
    except pynvml.NVMLError as error:
        log.warning("passed over GPU %d: %s", index, error)
        return None


def _read_gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        index=index,
        name=pynvml.nvmlDeviceGetName(handle),
        total_bytes=int(memory.total),
        free_bytes=int(memory.free),
    )

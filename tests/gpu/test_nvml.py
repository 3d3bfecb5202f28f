"""The real NVML: what it tells is plausible, and a process's memory is seen to come and go."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from orchd.runner.nvml import NvmlReader
from orchd.runner.snapshot import Gpu, NoReading

pytestmark = pytest.mark.gpu

TAKEN_BYTES = 512 << 20
HOLDER = f"""
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
def check(code):
    if code:
        sys.exit(f"CUDA failed with {{code}}")
check(cuda.cuInit(0))
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
check(cuda.cuDeviceGet(ctypes.byref(device), 0))
check(cuda.cuCtxCreate_v2(ctypes.byref(context), 0, device))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t({TAKEN_BYTES})))
print("holds", flush=True)
sys.stdin.read()
"""


def read_gpus(reader: NvmlReader) -> list[Gpu]:
    reading = reader.read()
    assert not isinstance(reading, NoReading)
    return [item for item in reading if isinstance(item, Gpu)]


def test_what_is_told_of_each_gpu_is_plausible(reader: NvmlReader) -> None:
    gpus = read_gpus(reader)
    assert len({gpu.uuid for gpu in gpus}) == len(gpus)
    for gpu in gpus:
        assert re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", gpu.uuid)
        assert gpu.name
        assert 1 << 30 <= gpu.total_bytes <= 1 << 40
        assert 0 <= gpu.free_bytes <= gpu.total_bytes
        assert re.fullmatch(
            r"[0-9A-Fa-f]{8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.0", gpu.pci_bus_id or ""
        )
        assert gpu.utilization is None or 0 <= gpu.utilization <= 100
        assert re.fullmatch(r"[0-9]+\.[0-9]", gpu.compute_capability or "")


def test_it_can_be_read_again_and_again_also_initialised_afresh(reader: NvmlReader) -> None:
    first = {gpu.uuid for gpu in read_gpus(reader)}
    for _ in range(5):
        assert {gpu.uuid for gpu in read_gpus(reader)} == first
    reader.close()
    assert {gpu.uuid for gpu in read_gpus(reader)} == first


def test_memory_that_a_process_takes_is_seen_and_seen_to_be_back(reader: NvmlReader) -> None:
    before = read_gpus(reader)[0]
    ours = {"CUDA_VISIBLE_DEVICES": before.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, **ours},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        if holder.stdout.readline() != "holds\n":
            assert holder.stderr is not None
            pytest.skip(f"no CUDA here: {holder.stderr.read().strip()}")
        during = next(gpu for gpu in read_gpus(reader) if gpu.uuid == before.uuid)
        assert during.used_bytes - before.used_bytes >= TAKEN_BYTES * 3 // 4
        told = during.bytes_of(holder.pid)
        assert told is None or told >= TAKEN_BYTES
        holder.stdin.close()
        holder.wait(30)
    wait_until(lambda: read_gpus(reader)[0].used_bytes <= before.used_bytes + TAKEN_BYTES // 4)


def wait_until(is_so: Callable[[], bool]) -> None:
    for _ in range(200):
        if is_so():
            return
        time.sleep(0.05)
    raise AssertionError("the memory was not given back")

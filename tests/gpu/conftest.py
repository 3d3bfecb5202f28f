"""Tests that need a real NVIDIA GPU: skipped by name where NVML finds none."""

from __future__ import annotations

import pytest

from orchd.runner.nvml import NvmlReader
from orchd.runner.snapshot import Gpu, NoReading


@pytest.fixture(scope="session")
def reader() -> NvmlReader:
    """NVML with at least one GPU that can be read."""
    reader = NvmlReader()
    reading = reader.read()
    if isinstance(reading, NoReading):
        pytest.skip(f"no GPU: {reading.reason}")
    if not any(isinstance(item, Gpu) for item in reading):
        pytest.skip("no GPU that can be read")
    return reader

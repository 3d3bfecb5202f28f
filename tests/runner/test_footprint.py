"""The footprint of a replica, and sizes for people."""

from __future__ import annotations

import pytest

from orchd.runner.footprint import MIB, Footprint, format_gib, reckon_footprint
from tests.runner.pools import make_pool


def test_what_the_configuration_says_is_taken_as_it_is() -> None:
    footprint = reckon_footprint(make_pool(vram_mib=6200), model_bytes=10**12)
    assert footprint == Footprint(6200 * MIB, "vram_mib of the configuration")


def test_without_it_the_model_file_counts_with_a_tenth_and_half_a_gib() -> None:
    footprint = reckon_footprint(make_pool(), model_bytes=4000 * MIB)
    assert footprint.need_bytes == 4400 * MIB + 512 * MIB
    assert footprint.reckoning == "model file 3.9 GiB, a tenth, and 0.5 GiB"


def test_an_empty_model_still_needs_its_context() -> None:
    assert reckon_footprint(make_pool(), model_bytes=0).need_bytes == 512 * MIB


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0.0 GiB"), (1024 * MIB, "1.0 GiB"), (9318 * MIB, "9.1 GiB")]
)
def test_sizes_are_told_in_gib(size_bytes: int, text: str) -> None:
    assert format_gib(size_bytes) == text

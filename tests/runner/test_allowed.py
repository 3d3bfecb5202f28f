"""Which GPUs a pool's devices allow, and what is said of an entry that names none."""

from __future__ import annotations

import pytest

from orchd.runner.allowed import allow
from orchd.runner.snapshot import Snapshot, Unread, follow
from tests.runner.gpus import gpu, seen

UUID = "GPU-8F3C1B2A-0000-1111-2222-ABCDEFABCDEF"
MIXED = seen(
    gpu(0, 24, name="NVIDIA GeForce RTX 3090"),
    gpu(1, 12, name="NVIDIA GeForce RTX 3060"),
    gpu(2, 24, name="NVIDIA GeForce RTX 3090"),
    gpu(3, 24, name="NVIDIA GeForce RTX 3090 Ti"),
)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [
        pytest.param(("auto",), [0, 1, 2, 3], id="auto"),
        pytest.param(("2", "0"), [0, 2], id="indexes"),
        pytest.param(("GPU-1",), [1], id="uuid"),
        pytest.param(("gpu-1",), [], id="a uuid begins in capitals"),
        pytest.param(("GPU-1", "0", "cpu"), [0, 1], id="mixed"),
        pytest.param(("cpu",), [], id="cpu"),
        pytest.param(("7",), [], id="not there"),
        pytest.param(("NVIDIA GeForce RTX 3090",), [0, 2], id="whole name, of two alike"),
        pytest.param(("3090 ti",), [3], id="part of one name, in other letters"),
        pytest.param(("3060",), [1], id="digits that are no index"),
        pytest.param(("3090",), [], id="part of two products"),
        pytest.param(("4090",), [], id="a product that is not there"),
    ],
)
def test_allowed_are_those_that_are_named(devices: tuple[str, ...], expected: list[int]) -> None:
    allowed = allow(devices, MIXED)
    assert allowed.uuids == {f"GPU-{n}" for n in expected}
    assert bool(allowed.complaints) is (not expected and devices != ("cpu",))


def test_a_part_of_several_products_names_them_all() -> None:
    assert allow(("3090",), MIXED).complaints == (
        '"3090" could be any of NVIDIA GeForce RTX 3090, NVIDIA GeForce RTX 3090 Ti;'
        " write more of the name",
    )


def test_what_is_not_there_is_told_beside_what_is() -> None:
    two = seen(gpu(0, 8, name="A"), gpu(1, 8, name="B"))
    assert allow(("7", "GPU-x", "C", "0"), two).complaints == (
        "there is no GPU 7 (seen: GPU 0 (A), GPU 1 (B))",
        "there is no GPU-x (seen: GPU-0, GPU-1)",
        'no GPU is named "C" (seen: GPU 0 (A), GPU 1 (B))',
    )
    assert allow(("auto",), Snapshot()).complaints == ("there is no NVIDIA GPU",)
    assert allow(("0",), Snapshot()).complaints == ("there is no GPU 0 (seen: none)",)


def test_one_in_quarantine_is_allowed_all_the_same() -> None:
    """Else a pool on it would be told that its card is not there."""
    held = follow(MIXED, (*MIXED.gpus[:3], Unread("errs")))
    assert allow(("3", "RTX 3090 Ti"), held).uuids == {"GPU-3"}


def test_an_index_goes_on_naming_the_card_that_had_it() -> None:
    shorter = follow(MIXED, MIXED.gpus[1:])
    assert allow(("0",), shorter).uuids == {"GPU-0"}
    assert allow(("1",), shorter).uuids == {"GPU-1"}


def test_a_uuid_is_the_same_in_any_letters() -> None:
    shown = seen(gpu(0, 8))
    (only,) = shown.gpus
    loud = follow(Snapshot(), (type(only)(UUID, 0, "A", 1, 1),))
    assert allow(("GPU-" + UUID[4:].lower(),), loud).uuids == {UUID}

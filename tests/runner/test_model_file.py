"""Models on a real disk: whole, in parts, changed, missing, and what is no model."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchd.engines.memory_demand import Companion
from orchd.errors import HostError
from orchd.runner.model_file import ModelFiles, ModelReader, Stamp, list_parts, measure_file
from tests.fakes.engines import write_model
from tests.fakes.gguf import U16, Tensor, Typed, Value, write_head, write_sparse
from tests.runner.models import LLAMA_3_8B, SMOLLM2_135M, place_tensors

HEAD: dict[str, Value] = {"general.architecture": "llama", "llama.block_count": 2}
TENSOR_BYTES = 4096


def read(model: Path, *companions: Companion) -> ModelFiles:
    return ModelReader(str(model), companions).read()


def write_part(folder: Path, number: int, count: int) -> Path:
    """Part 1 has the keys and no tensors, as it is written by llama.cpp's own tool for parts."""
    values: dict[str, Value] = {
        "split.no": Typed(U16, number - 1),
        "split.count": Typed(U16, count),
    }
    tensors = [Tensor(f"blk.{number - 2}.x", (1024,))] if number > 1 else []
    path = folder / f"big-{number:05}-of-{count:05}.gguf"
    return write_sparse(path, write_head({**HEAD, **values}, tensors), TENSOR_BYTES)


# -- whole -------------------------------------------------------------------------------------


def test_a_model_of_a_real_size_is_read_without_its_weights(tmp_path: Path) -> None:
    weights_bytes = 9_000_000_000
    model = write_sparse(tmp_path / "m.gguf", LLAMA_3_8B.head(), weights_bytes)
    files = read(model)
    (loaded,) = files.loaded
    assert loaded.facts == LLAMA_3_8B.facts()
    assert loaded.weights == LLAMA_3_8B.facts().weights
    assert files.stamp == Stamp(model.stat().st_size, model.stat().st_mtime_ns)


def test_the_fakes_model_is_one(tmp_path: Path) -> None:
    files = read(write_model(tmp_path, 5000))
    assert files.stamp.size_bytes == 5000
    assert files.loaded[0].facts is not None
    assert files.loaded[0].facts.layers == 2


def test_it_is_read_again_only_where_it_changed(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    reader = ModelReader(str(model))
    first = reader.read()
    assert reader.read() is first
    os.utime(model, ns=(1, 1))
    second = reader.read()
    assert second is not first
    assert second.stamp.mtime_ns == 1
    write_model(tmp_path, 2000)
    assert reader.read().stamp.size_bytes == 2000
    model.unlink()
    with pytest.raises(HostError, match="No such file"):
        reader.read()


# -- in parts ----------------------------------------------------------------------------------


def test_all_parts_are_summed(tmp_path: Path) -> None:
    parts = [write_part(tmp_path, n, 3) for n in (1, 2, 3)]
    files = read(parts[0])
    (loaded,) = files.loaded
    assert loaded.weights.total_bytes == 2 * TENSOR_BYTES
    assert loaded.weights.layer_bytes == ((0, TENSOR_BYTES), (1, TENSOR_BYTES))
    assert files.stamp.size_bytes == sum(part.stat().st_size for part in parts)
    assert files.stamp.mtime_ns == max(part.stat().st_mtime_ns for part in parts)


def test_a_part_that_changes_is_noticed(tmp_path: Path) -> None:
    parts = [write_part(tmp_path, n, 2) for n in (1, 2)]
    reader = ModelReader(str(parts[0]))
    first = reader.read()
    os.utime(parts[1], ns=(1, 1 << 62))
    assert reader.read() is not first


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    parts = [write_part(tmp_path, n, 3) for n in (1, 2, 3)]
    parts[2].unlink()
    expected = f"^model {parts[0]}: a part of it cannot be read, {parts[2]}: No such file"
    with pytest.raises(HostError, match=expected):
        read(parts[0])


def test_a_part_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    parts = [write_part(tmp_path, n, 2) for n in (1, 2)]
    os.truncate(parts[1], parts[1].stat().st_size - 1)
    with pytest.raises(HostError, match=f"^model {parts[1]} is cut short: it has "):
        read(parts[0])


def test_another_part_than_the_first_is_refused(tmp_path: Path) -> None:
    write_part(tmp_path, 1, 2)
    second = write_part(tmp_path, 2, 2)
    with pytest.raises(HostError, match="is one of 2 parts and not the first; name the first"):
        read(second)


@pytest.mark.parametrize("name", ["renamed.gguf", "big-00001-of-00003.gguf"])
def test_a_part_with_the_name_of_none_is_refused(tmp_path: Path, name: str) -> None:
    first = write_part(tmp_path, 1, 2).rename(tmp_path / name)
    expected = "is one of 2 parts, but its name does not end in -00001-of-00002.gguf"
    with pytest.raises(HostError, match=expected):
        read(first)


def test_the_parts_are_named_by_the_first_one() -> None:
    assert list_parts("/m-00001-of-00003.gguf") == (
        "/m-00001-of-00003.gguf",
        "/m-00002-of-00003.gguf",
        "/m-00003-of-00003.gguf",
    )
    for alone in ("/m.gguf", "/m-00001-of-00001.gguf", "/m-00001-of-00000.gguf", "/m-00002-of-3"):
        assert list_parts(alone) == (alone,)


def test_a_whole_model_may_have_the_name_of_a_part(tmp_path: Path) -> None:
    model = write_model(tmp_path).rename(tmp_path / "m-00001-of-00009.gguf")
    assert read(model).loaded[0].facts is not None


# -- beside the model --------------------------------------------------------------------------


def test_a_projector_is_weighed_and_not_asked_for_layers(tmp_path: Path) -> None:
    tensors = [Tensor("v.blk.0.attn_q.weight", (1024,))]
    clip = write_sparse(
        tmp_path / "p.gguf", write_head({"general.architecture": "clip"}, tensors), TENSOR_BYTES
    )
    model = write_model(tmp_path)
    files = read(model, Companion("projector", str(clip), has_cache=False))
    assert files.loaded[1].facts is None
    assert files.loaded[1].weights.total_bytes == TENSOR_BYTES
    assert files.stamp.size_bytes == model.stat().st_size + clip.stat().st_size


def test_a_draft_model_is_a_model(tmp_path: Path) -> None:
    draft = write_sparse(tmp_path / "d.gguf", SMOLLM2_135M.head(), 1 << 30)
    files = read(write_model(tmp_path), Companion("draft model", str(draft), has_cache=True))
    assert files.loaded[1].facts == SMOLLM2_135M.facts()


def test_what_is_missing_beside_the_model_is_named(tmp_path: Path) -> None:
    absent = tmp_path / "p.gguf"
    with pytest.raises(HostError, match=f"^model {absent}: No such file or directory; write"):
        read(write_model(tmp_path), Companion("projector", str(absent), has_cache=False))


# -- what is no model --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (bytes(5000), "is not a GGUF file"),
        (b"GGUF\3\0\0\0", "is cut short"),
        (write_head({"general.architecture": "llama"}), "names no number of layers"),
    ],
)
def test_what_cannot_be_loaded_is_told_with_its_name(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    model = tmp_path / "m.gguf"
    model.write_bytes(content)
    with pytest.raises(HostError, match=f"^model {model} {problem}"):
        read(model)


def test_a_download_that_broke_off_is_told(tmp_path: Path) -> None:
    tensors = place_tensors(iter([("blk.0.x", (1024, 1024))]))
    model = write_sparse(tmp_path / "m.gguf", write_head(HEAD, tensors), 1_000_000)
    with pytest.raises(HostError, match=r"is cut short: it has 1\d+ of 1\d+ bytes; fetch it anew"):
        read(model)


def test_a_device_is_no_model() -> None:
    with pytest.raises(HostError, match=r"^model /dev/zero: is no file$"):
        read(Path("/dev/zero"))


def test_a_name_that_no_file_can_have_is_told() -> None:
    with pytest.raises(HostError, match="embedded null"):
        measure_file("/m\0.gguf")


def test_what_only_has_to_be_there_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"anything")
    assert measure_file(str(tmp_path / "m")) == 8


@pytest.mark.parametrize(
    ("names", "mend"),
    [
        ((), "write the path of a GGUF file"),
        (("a.gguf", "README.md"), "write the GGUF file in it: a.gguf"),
        (("b.gguf", "a.gguf"), "write the GGUF file in it: a.gguf, or one of 1 more"),
    ],
)
def test_of_a_folder_the_models_in_it_are_named(
    tmp_path: Path, names: tuple[str, ...], mend: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(HostError, match=f"^model {tmp_path}: Is a directory; {mend}$"):
        measure_file(str(tmp_path))


@contextlib.contextmanager
def give_up_privileges() -> Iterator[None]:
    """Root may read everything; so it is nobody for as long as this lasts."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_a_model_that_may_not_be_read_names_who_may_not(tmp_path: Path) -> None:
    model = write_model(tmp_path)
    model.chmod(0)
    with give_up_privileges(), pytest.raises(HostError, match="Permission denied") as caught:
        measure_file(str(model))
    assert re.search(r"user \d+ may not read it; have its owner allow that", str(caught.value))


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    broken = tmp_path / "m.gguf"
    broken.write_bytes(b"GGUF")
    for model in (broken, tmp_path, tmp_path / "absent", Path("/dev/null")):
        with pytest.raises(HostError):
            read(model)
    read(write_model(tmp_path))
    assert len(list(Path("/proc/self/fd").iterdir())) == before

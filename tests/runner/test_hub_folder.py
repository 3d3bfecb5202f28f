"""Model folders on a disk: whole, in parts, cut short, hostile, or in the hub's cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchd.errors import HostError
from orchd.runner.hub_folder import HubReader
from tests.fakes.engines import write_model
from tests.fakes.hub import LLAMA_8B, SMALL, write_cached, write_folder
from tests.runner.test_model_file import give_up_privileges

MIB = 1 << 20


def weights_of(model: Path | str, **environment: str) -> int:
    files = HubReader(str(model), environment).read()
    assert files is not None
    return sum(file.weights.total_bytes for file in files.loaded)


def problem_with(model: Path | str) -> str:
    with pytest.raises(HostError) as caught:
        HubReader(str(model), {}).read()
    return str(caught.value)


def test_a_folder_is_its_config_and_its_tensors(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m", LLAMA_8B, 5 * MIB)
    files = HubReader(str(model), {}).read()
    assert files is not None
    (loaded,) = files.loaded
    assert loaded.facts is not None
    assert (loaded.facts.layers, loaded.weights.total_bytes) == (32, 5 * MIB)


def test_weights_in_parts_are_those_of_the_index(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m", SMALL, 8 * MIB, parts=4)
    (model / "other.safetensors").write_bytes(b"never looked at")
    assert weights_of(model) == 8 * MIB
    (model / "model-00003-of-00004.safetensors").unlink()
    assert problem_with(model) == (
        f"model {model}: model-00003-of-00004.safetensors is not in it: "
        "is it a model's folder, and whole?"
    )


def test_without_an_index_mistrals_second_copy_does_not_count(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m", SMALL, 3 * MIB)
    (model / "model.safetensors").rename(model / "consolidated.safetensors")
    assert weights_of(model) == 3 * MIB
    write_folder(tmp_path / "m", SMALL, 2 * MIB)
    assert weights_of(model) == 2 * MIB


def test_pickled_weights_count_as_their_files(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m")
    (model / "model.safetensors").unlink()
    assert "has no weights in it" in problem_with(model)
    (model / "training_args.bin").write_bytes(b"x" * 99)
    (model / "pytorch_model.bin").write_bytes(b"x" * 1000)
    assert weights_of(model) == 1000


def test_one_that_is_cut_short_is_found_without_reading_it(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m", SMALL, 1 << 40)
    assert weights_of(model) == 1 << 40
    os.truncate(model / "model.safetensors", 1 << 39)
    assert "cannot be loaded: model.safetensors in it is cut short" in problem_with(model)


def test_a_header_of_unusual_length_is_not_looked_into(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m")
    header_bytes = 17 * MIB
    (model / "model.safetensors").write_bytes(header_bytes.to_bytes(8, "little"))
    os.truncate(model / "model.safetensors", 8 + header_bytes + 3 * MIB)
    assert weights_of(model) == 3 * MIB


def test_what_is_no_models_folder_is_told_with_the_mend(tmp_path: Path) -> None:
    assert "No such folder; write the path of a model's folder" in problem_with(tmp_path / "none")
    file = tmp_path / "file"
    file.touch()
    assert "is no folder; write that of the model" in problem_with(file)
    assert "config.json is not in it" in problem_with(tmp_path)
    assert "embedded null byte" in problem_with("/a\0b")


def test_hostile_files_are_refused(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m")
    config = model / "config.json"
    os.truncate(config, 1 << 33)
    assert "config.json is larger than" in problem_with(model)
    config.unlink()
    os.mkfifo(config)
    assert "config.json in it is no file" in problem_with(model)
    config.unlink()
    config.symlink_to(config)
    assert "config.json in it: " in problem_with(model)
    write_folder(tmp_path / "n")
    index = {"weight_map": {"a": "../../secret.safetensors"}}
    (tmp_path / "n" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names a file elsewhere" in problem_with(tmp_path / "n")


@pytest.mark.parametrize("path", [f"/{'a' * 300}", f"/{'a/' * 3000}", "/proc/self/none"])
def test_a_path_that_cannot_be_is_no_bug_of_ours(path: str) -> None:
    assert "No such folder; write the path of a model's folder" in problem_with(path)


def test_a_folder_that_is_shut_is_told_with_the_mend(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "shut" / "m")
    (tmp_path / "shut").chmod(0)
    with give_up_privileges():
        problem = problem_with(model)
    (tmp_path / "shut").chmod(0o700)
    assert "Permission denied: user " in problem
    assert "may not read it; have its owner allow that (chmod)" in problem


def test_a_files_name_is_told_as_text_and_not_whole(tmp_path: Path) -> None:
    """Whatever is told goes into JSON, on /health for one."""
    model = write_folder(tmp_path / "m")
    (model / os.fsdecode(b"\xff.safetensors")).touch()
    assert "cannot be loaded: \ufffd.safetensors in it is cut short" in problem_with(model)
    index = {"weight_map": {"a": "x" * 1_000_000}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert len(problem_with(model)) < 1000


def test_a_name_is_looked_up_where_its_engine_would(tmp_path: Path) -> None:
    write_cached(tmp_path / "hub", "org/small", weights_bytes=4 * MIB)
    assert weights_of("org/small", HF_HUB_CACHE=str(tmp_path / "hub")) == 4 * MIB
    assert weights_of("org/small", HF_HOME=str(tmp_path)) == 4 * MIB
    for name, environment in (
        ("org/other", {"HF_HOME": str(tmp_path)}),
        ("org/small", {"HF_HOME": str(tmp_path / "elsewhere")}),
        ("org/small", {}),
    ):
        assert HubReader(name, environment).read() is None


def test_a_name_whose_download_is_not_whole_is_not_here_yet(tmp_path: Path) -> None:
    snapshot = write_cached(tmp_path / "hub", "org/small", weights_bytes=4 * MIB, parts=2)
    reader = HubReader("org/small", {"HF_HOME": str(tmp_path)})
    (snapshot / "model-00002-of-00002.safetensors").rename(tmp_path / "part")
    assert reader.read() is None
    (tmp_path / "part").rename(snapshot / "model-00002-of-00002.safetensors")
    assert reader.read() is not None
    reference = tmp_path / "hub/models--org--small/refs/main"
    write_folder(tmp_path / "elsewhere")
    reference.write_text("../../../elsewhere")
    assert HubReader("org/small", {"HF_HOME": str(tmp_path)}).read() is None


def test_a_gguf_file_is_read_as_one(tmp_path: Path) -> None:
    files = HubReader(str(write_model(tmp_path)), {}).read()
    assert files is not None
    assert files.loaded[0].facts is not None
    assert files.loaded[0].facts.layers == 2


def test_it_is_read_again_only_where_it_has_changed(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "m")
    reader = HubReader(str(model), {})
    first = reader.read()
    assert reader.read() is first
    write_folder(tmp_path / "m", SMALL, 7 * MIB)
    again = reader.read()
    assert again is not None
    assert again.loaded[0].weights.total_bytes == 7 * MIB

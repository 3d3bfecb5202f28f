"""What is a path and what is a name, by the engine that is to load it."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from orchd.config.model import PoolConfig
from orchd.config.model_form import ModelForm, form_of, is_name, is_path


@pytest.mark.parametrize("engine", get_args(get_type_hints(PoolConfig)["engine"]))
def test_every_engine_of_the_configuration_has_a_form(engine: str) -> None:
    assert isinstance(form_of(engine), ModelForm)


@pytest.mark.parametrize("model", ["/m", "m", "org/model", "~/m", "-m", "./m"])
def test_a_file_is_always_a_path(model: str) -> None:
    assert is_path("llamacpp", model)
    assert not is_name("llamacpp", model)


@pytest.mark.parametrize("model", ["https://hub.example/org/model", "http://hub.example/m"])
def test_a_hubs_page_is_no_name_on_it(model: str) -> None:
    assert not is_name("vllm", model) and not is_path("vllm", model)
    assert is_name("openai", model) and is_name("vllm", "s3://bucket/model")


@pytest.mark.parametrize("engine", ["vllm", "openai"])
@pytest.mark.parametrize(
    ("model", "path", "name"),
    [
        *(("/models/qwen", True, False), ("~/qwen", True, False)),
        *(("./qwen", True, False), ("../qwen", True, False)),
        *(("Qwen/Qwen3-8B", False, True), ("default", False, True), ("a-b.c~d", False, True)),
        *(("-m", False, False), ("--host", False, False), ("~u/m", False, False)),
        *((".", False, False), (".m", False, False), ("", False, False)),
        *(("a\nb", False, False), ("a\x1b[31m", False, False), ("Größe", False, True)),
    ],
)
def test_elsewhere_a_path_is_told_by_how_it_begins(
    engine: str, model: str, path: bool, name: bool
) -> None:
    assert (is_path(engine, model), is_name(engine, model)) == (path, name)

"""Which model a pool serves, and which it has served."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchd.runner.model_history import KEPT, ModelHistory
from tests.runner.pools import make_pool

POOL = make_pool(model="/m/a.gguf", vram_mib=700, sha256="a" * 64)


def reload(history: ModelHistory, *models: str) -> None:
    for model in models:
        history.activate(history.configure(model))


def test_the_configured_model_is_active_first() -> None:
    history = ModelHistory(POOL)
    assert (history.active, history.retired, history.is_configured) == (POOL, (), True)


def test_another_model_retires_it() -> None:
    history = ModelHistory(POOL)
    reload(history, "/m/b.gguf")
    assert history.active.model == "/m/b.gguf"
    assert (history.retired, history.is_configured) == (("/m/a.gguf",), False)


def test_what_is_written_of_the_configured_model_is_not_said_of_another() -> None:
    history = ModelHistory(POOL)
    other = history.configure("/m/b.gguf")
    assert other == replace(POOL, model="/m/b.gguf", vram_mib=None, sha256=None)
    history.activate(other)
    assert history.configure("/m/a.gguf") == POOL
    assert history.configure("/m/c.gguf").vram_mib is None


@pytest.mark.parametrize("model", [None, "/m/b.gguf"])
def test_the_active_model_afresh_is_just_that(model: str | None) -> None:
    history = ModelHistory(POOL)
    reload(history, "/m/b.gguf")
    assert history.configure(model) == history.active
    history.activate(history.configure(model))
    assert history.retired == ("/m/a.gguf",)


def test_a_model_that_comes_back_is_retired_no_more() -> None:
    history = ModelHistory(POOL)
    reload(history, "/m/b.gguf", "/m/a.gguf")
    assert (history.retired, history.is_configured) == (("/m/b.gguf",), True)


def test_the_last_few_are_kept_the_newest_last() -> None:
    history = ModelHistory(POOL)
    reload(history, *(f"/m/{n}.gguf" for n in range(KEPT + 3)))
    assert history.retired == tuple(f"/m/{n}.gguf" for n in range(2, KEPT + 2))

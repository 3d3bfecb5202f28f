"""Which pool serves a request, and why none does."""

from __future__ import annotations

from typing import TypedDict

import pytest

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Generation
from orchd.errors import Code
from orchd.serving.pool_choice import TaskRequest, decide_spec
from orchd.serving.task import Priority, Rejected, TaskSpec
from tests.serving.samples import make_pool

PROMPT = Generation(prompt="Once")
CHAT = make_pool("chat", "/models/a.gguf", ctx=512)
CODE = make_pool("code", "/models/b.gguf", ctx=1024)
TWIN = make_pool("twin", "/models/b.gguf")


class Named(TypedDict, total=False):
    pool_id: str
    model_ref: str
    engine: str


def choose(
    *pools: PoolConfig,
    ctx: int | None = None,
    pool_id: str | None = None,
    model_ref: str | None = None,
    engine: str | None = None,
) -> str | Rejected:
    request = TaskRequest(PROMPT, ctx=ctx, pool_id=pool_id, model_ref=model_ref, engine=engine)
    spec = decide_spec(request, "id", pools)
    return spec.pool_id if isinstance(spec, TaskSpec) else spec


def test_the_spec_holds_what_was_asked() -> None:
    request = TaskRequest(PROMPT, Priority.BATCH, task_id="id", session_id="s")
    assert decide_spec(request, "id", [CHAT]) == TaskSpec("id", "chat", Priority.BATCH, "s", PROMPT)


def test_the_only_pool_needs_no_name() -> None:
    assert choose(CHAT) == "chat"


@pytest.mark.parametrize(
    "named",
    [
        {"pool_id": "code"},
        {"model_ref": "/models/b.gguf"},
        {"model_ref": "b.gguf"},
        {"pool_id": "code", "model_ref": "b.gguf", "engine": "llamacpp"},
    ],
)
def test_a_pool_is_found_by_whatever_names_it(named: Named) -> None:
    assert choose(CHAT, CODE, **named) == "code"


def test_more_than_one_that_could_serve_is_the_clients_to_decide() -> None:
    rejected = choose(CHAT, CODE, TWIN, model_ref="b.gguf")
    assert isinstance(rejected, Rejected)
    assert rejected.code is Code.INVALID_PARAMS
    assert rejected.message.endswith("name a pool_id of: code, twin")
    assert rejected.engine is None


@pytest.mark.parametrize(
    "named",
    [
        {"pool_id": "nope"},
        {"model_ref": "c.gguf"},
        {"model_ref": "models/b.gguf"},
        {"engine": "vllm"},
        {"pool_id": "chat", "model_ref": "b.gguf"},
    ],
)
def test_no_pool_that_fits_is_said_with_what_there_is(named: Named) -> None:
    rejected = choose(CHAT, CODE, **named)
    assert isinstance(rejected, Rejected)
    assert rejected.code is Code.INVALID_PARAMS
    for key, value in named.items():
        assert f"{key} {value!r}" in rejected.message
    assert "chat (llamacpp, a.gguf), code (llamacpp, b.gguf)" in rejected.message


def test_a_context_beyond_the_pools_is_refused() -> None:
    assert choose(CHAT, ctx=512) == "chat"
    rejected = choose(CHAT, ctx=513)
    assert isinstance(rejected, Rejected)
    assert (rejected.code, rejected.engine) == (Code.INVALID_PARAMS, "llamacpp")
    assert rejected.message.startswith("ctx: 513 is above the 512 tokens")


def test_pools_may_be_any_iterable() -> None:
    request = TaskRequest(PROMPT, pool_id="nope")
    rejected = decide_spec(request, "id", (pool for pool in (CHAT, CODE)))
    assert isinstance(rejected, Rejected) and "code" in rejected.message

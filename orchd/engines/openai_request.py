"""The request that streams a generation by OpenAI's API, and how long its answer may be."""

from __future__ import annotations

import orjson

from orchd.config.model import PoolConfig
from orchd.engines.adapter import EngineRequest, Generation

_EXTRA_TOKENS = 8
"""Beside those of a prompt's text, each of which has a byte at least: a start, an end."""
_SHORT_PARTS = 4
"""A prompt is short where it surely leaves all but one of so many parts of the context."""


def make_request(pool: PoolConfig, generation: Generation) -> EngineRequest:
    """To ``/v1/completions`` for a prompt, to ``/v1/chat/completions`` for turns."""
    body: dict[str, object] = {
        **generation.sampling,
        "model": pool.model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if generation.stop:
        body["stop"] = generation.stop
    if generation.messages is None:
        prompt = generation.prompt or ""
        limit = generation.max_tokens or bound_tokens(pool, prompt)
        body |= {"prompt": prompt, "max_tokens": limit}
        return EngineRequest("POST", "/v1/completions", orjson.dumps(body))
    body["messages"] = generation.messages
    if generation.max_tokens is not None:
        # Unsaid, it is all that is left of the context, other than with a completion.
        body["max_tokens"] = generation.max_tokens
    return EngineRequest("POST", "/v1/chat/completions", orjson.dumps(body))


def bound_tokens(pool: PoolConfig, prompt: str) -> int:
    """What a completion may make that was given no bound.

    There is no word for all that is left of the context: without a bound most servers make 16
    tokens as OpenAI does, some for null too (vLLM 0.32, measured), and SGLang refuses null. A
    number that the context cannot hold is refused by SGLang, TGI and older vLLM, and cut down by
    vLLM 0.32 (measured), llama.cpp and llama-cpp-python. So a short prompt gets what is left for
    certain, and for a longer one the whole context is asked for, not to cut its answer short.
    """
    prompt_tokens = len(prompt.encode()) + _EXTRA_TOKENS
    is_short = prompt_tokens * _SHORT_PARTS <= pool.ctx
    return pool.ctx - prompt_tokens if is_short else pool.ctx

"""Every engine that a pool may name."""

from __future__ import annotations

from collections.abc import Mapping

from orchd.engines.adapter import Adapter
from orchd.engines.llamacpp import LlamaCpp
from orchd.engines.openai import OpenAi
from orchd.engines.vllm import Vllm

ADAPTERS: Mapping[str, Adapter] = {"llamacpp": LlamaCpp(), "vllm": Vllm(), "openai": OpenAi()}

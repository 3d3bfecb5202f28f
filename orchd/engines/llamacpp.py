"""llama.cpp: ``llama-server``, or the same server embedded by the ``llamacpp`` extra.

Both take one command line and speak one protocol. Sources: llama.cpp's server README, and
measurements on build 11434 where the README is silent or wrong (noted where they matter).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from orchd.config.model import PoolConfig
from orchd.engines.adapter import (
    FIRST_COMPLETION,
    Binary,
    DeviceKind,
    Done,
    EngineRequest,
    Executable,
    Generation,
    Identity,
    Launch,
    MemoryDemand,
    PromptProgress,
    PythonModule,
    Refused,
    StreamEvent,
    StreamParser,
    Text,
    Unsaid,
    max_events,
)
from orchd.engines.event_stream import EventStreamReader
from orchd.engines.llamacpp_memory import BATCH_TOKENS, CACHE_RAM_MIB, read_demand
from orchd.errors import EngineError, Fault

_EMBEDDED = PythonModule(
    "embedded_llamacpp.py", "xllamacpp", "install the extra: pip install '.[llamacpp]'"
)
_ALL_LAYERS = "999"
"""More layers than any model has: the whole model goes to the device, as reserved."""
_LAST_EVENT_FIELDS = [
    *("content", "stop", "stop_type"),
    *("tokens_predicted", "tokens_evaluated", "timings"),
]
"""Trims the last event, which otherwise repeats the whole prompt and every setting."""
_LARGEST_COUNT = 2**53
"""Beyond it a figure is garbage, and no JSON number that every reader understands."""
_WORDS_CHARS = 1000
"""How much of its words goes on to users, logs and /health: they may be as long as an answer."""
_NOT_OURS = (401, 403)
"""Ours takes our key; whoever does not has taken its port."""
_NOT_NOW = (408, 425, 429)
"""Request timeout, too early, too many requests."""
_UNSAID = Unsaid()

_OWN_FLAGS = {
    **dict.fromkeys(("-m", "--model", "-mu", "--model-url"), "write the pool's model instead"),
    **dict.fromkeys(("-hf", "-hfr", "--hf-repo"), "write the pool's model instead"),
    **dict.fromkeys(("-c", "--ctx-size"), "write the pool's ctx, tokens for each slot, instead"),
    **dict.fromkeys(("-np", "--parallel"), "write the pool's slots instead"),
    **dict.fromkeys(("-kvu", "--kv-unified"), "slots have a context of their own here"),
    **dict.fromkeys(("--host", "--port", "--reuse-port"), "the daemon chooses the address"),
    **dict.fromkeys(("--api-key", "--api-key-file"), "the daemon makes a key of its own"),
}
"""Flags that the pool's own keys or the daemon set, and what to do instead."""


class LlamaCpp:
    """The adapter; it has no state."""

    def find_faults(self, pool: PoolConfig) -> Iterator[Fault]:
        for n, argument in enumerate(pool.args):
            # llama.cpp reads underscores in a flag as dashes.
            flag = argument.partition("=")[0].replace("_", "-")
            if flag in _OWN_FLAGS:
                yield Fault(f"args[{n}]", f"{flag} is not for args: {_OWN_FLAGS[flag]}")
        for name in pool.env:
            if name.startswith("LLAMA_"):
                yield Fault(f"env.{name}", "llama.cpp's own variables are the daemon's; use args")

    def executables(self, pool: PoolConfig) -> tuple[Executable, ...]:
        if pool.binary is not None:
            return (Binary(pool.binary),)
        return (Binary("llama-server"), _EMBEDDED)

    def arguments(self, pool: PoolConfig, launch: Launch) -> list[str]:
        is_cpu = launch.device == "cpu"
        return [
            *("--model", launch.model),
            *("--host", launch.host),
            *("--port", str(launch.port)),
            # Their sum: llama.cpp divides it by the slots, and without --no-kv-unified each slot
            # would promise all of it and one full slot would fail every task (measured).
            *("--ctx-size", str(pool.ctx * pool.slots)),
            *("--parallel", str(pool.slots)),
            "--no-kv-unified",
            *("--batch-size", str(BATCH_TOKENS["cpu" if is_cpu else "gpu"])),
            *("--n-gpu-layers", "0" if is_cpu else _ALL_LAYERS),
            *("--cache-ram", str(CACHE_RAM_MIB)),
            "--no-webui",
            *pool.args,
        ]

    def environment(self, launch: Launch) -> dict[str, str]:
        environment = {"LLAMA_API_KEY": launch.key}
        if launch.is_cpu_shared:
            # Spinning OpenMP threads of two engines on the same cores collapse to about one
            # token a second (measured); sleeping ones do not.
            environment["OMP_WAIT_POLICY"] = "passive"
        return environment

    def memory_demand(self, pool: PoolConfig, kind: DeviceKind) -> MemoryDemand:
        return read_demand(pool, kind)

    def health_request(self) -> EngineRequest:
        return EngineRequest("GET", "/health")

    def has_key(self, pool: PoolConfig) -> bool:
        return True

    def identity_request(self) -> EngineRequest:
        return EngineRequest("GET", "/props")

    def read_identity(self, pool: PoolConfig, body: bytes) -> Identity:
        match _parse(body):
            case {"model_path": str(model), "build_info": str(build)}:
                return Identity(model, build[:_WORDS_CHARS])
            case {"model_path": str(model)}:
                return Identity(model, None)
            case _:
                raise EngineError("answered /props without a model_path")

    def version_requests(self) -> tuple[EngineRequest, ...]:
        return ()

    def read_version(self, body: bytes) -> str | None:
        return None

    def first_generations(self) -> tuple[Generation, ...]:
        return (FIRST_COMPLETION,)

    def read_phase(self, line: str) -> str | None:
        return None

    def find_cause(self, lines: Sequence[str]) -> str:
        return ""

    def slots_request(self) -> EngineRequest | None:
        return EngineRequest("GET", "/slots")

    def doubts_busy_after_s(self) -> float | None:
        return None

    def read_busy_slots(self, status: int, body: bytes) -> int:
        if status in (404, 501):  # args = ["--no-slots"]
            return 0
        match _parse(body):
            case list(slots) if status == 200 and all(isinstance(slot, dict) for slot in slots):
                return sum(1 for slot in slots if slot.get("is_processing"))
            case _:
                raise EngineError(f"answered HTTP {status} when asked for its slots")

    def generation_request(self, pool: PoolConfig, generation: Generation) -> EngineRequest:
        # Adds events of either stream's own shape, without text, one before each batch of the
        # prompt and one behind the last. A prompt that waits for that of another slot tells the
        # same figure with each of the other's batches (both measured).
        body: dict[str, object] = {**generation.sampling, "stream": True, "return_progress": True}
        # Never without a bound: an engine that shifts its context would go on for ever.
        limit = max_events(pool, generation)
        body["max_tokens" if generation.messages else "n_predict"] = limit
        if generation.stop:
            body["stop"] = generation.stop
        if generation.messages is None:
            body |= {"prompt": generation.prompt, "response_fields": _LAST_EVENT_FIELDS}
            return EngineRequest("POST", "/completion", orjson.dumps(body))
        body |= {"messages": generation.messages, "stream_options": {"include_usage": True}}
        return EngineRequest("POST", "/v1/chat/completions", orjson.dumps(body))

    def read_refusal(self, status: int, body: bytes) -> Refused:
        message = _error_message(_parse(body, default={}), f"HTTP {status}")
        if (refused := _judge(status, message)) is not None:
            return refused
        raise EngineError(f"answered HTTP {status}: {message}")

    def new_parser(self, generation: Generation) -> StreamParser:
        return CompletionParser() if generation.messages is None else ChatParser()


class CompletionParser:
    """Understands ``/completion``: no ``[DONE]``, the last event has ``"stop": true``."""

    def __init__(self) -> None:
        self._reader = EventStreamReader()

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        for data in self._reader.feed(chunk):
            match _parse(data):
                case {"error": _} as failed:
                    yield _read_error(failed)
                case {
                    "prompt_progress": {"processed": int(read), "total": int(total)},
                    "content": "",
                    "stop": False,
                }:
                    yield PromptProgress(read, total)
                case {"content": str(text), "stop": bool(is_last)} as said:
                    # Held-back text (a stop word's start, half a character) comes as "".
                    if text:
                        yield Text(text)
                    elif not is_last:
                        yield _UNSAID
                    if is_last:
                        yield _read_last(said)
                case _:
                    raise EngineError("sent an event that is no completion")


class ChatParser:
    """Understands ``/v1/chat/completions`` with usage: finish, then usage, then ``[DONE]``."""

    def __init__(self) -> None:
        self._reader = EventStreamReader()
        self._reason: str | None = None
        self._last: dict[str, Any] = {}

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        for data in self._reader.feed(chunk):
            if data == b"[DONE]":
                yield self._finish()
                continue
            match _parse(data):
                case {"error": _} as failed:
                    yield _read_error(failed)
                case {
                    "prompt_progress": {"processed": int(read), "total": int(total)},
                    "choices": [{"delta": {"content": None}}],
                }:
                    yield PromptProgress(read, total)
                case {"choices": []} as said:
                    self._last = said
                case {"choices": [{"delta": dict(delta), "finish_reason": reason}, *_]} as said:
                    # The first delta holds a role and no text; thoughts and tool calls are no
                    # text either and are passed over.
                    match delta:
                        case {"content": str(text)} if text:
                            yield Text(text)
                        case {"content": value} if value is not None and value != "":
                            raise EngineError("sent an answer that is no text")
                        case _ if reason is None:
                            yield _UNSAID
                    if reason is not None:
                        self._reason, self._last = reason, said
                case _:
                    raise EngineError("sent an event that is no chat completion")

    def _finish(self) -> Done:
        if self._reason is None:
            raise EngineError("ended a chat completion without a reason")
        return Done(
            finish_reason="length" if self._reason == "length" else "stop",
            tokens_in=_count(self._last, "usage", "prompt_tokens"),
            tokens_out=_count(self._last, "usage", "completion_tokens"),
            decode_ms=_count(self._last, "timings", "predicted_ms"),
        )


def _read_last(said: dict[str, Any]) -> Done:
    return Done(
        finish_reason="length" if said.get("stop_type") == "limit" else "stop",
        tokens_in=_count(said, "tokens_evaluated"),
        tokens_out=_count(said, "tokens_predicted"),
        decode_ms=_count(said, "timings", "predicted_ms"),
    )


def _judge(status: int, message: str) -> Refused | None:
    """Whose fault an error is: the task's where it is a 4xx; None where the engine's."""
    if status in _NOT_OURS:
        raise EngineError(f"does not take our key (HTTP {status}): it is not the engine we started")
    if 400 <= status < 500:
        return Refused(message, is_busy=status in _NOT_NOW)
    return None


def _read_error(said: dict[str, Any]) -> Refused:
    """An error in mid-stream."""
    message = _error_message(said, "an error without a message")
    match said["error"]:
        case {"code": int(status)} if (refused := _judge(status, message)) is not None:
            return refused
        case _:
            raise EngineError(f"gave up: {message}")


def _error_message(said: object, default: str) -> str:
    match said:
        case {"error": {"message": str(message)}}:
            return message[:_WORDS_CHARS]
        case _:
            return default


def _count(said: dict[str, Any], *path: str) -> int | None:
    """The number at the end of the path; None where there is none."""
    value: object = said
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(value) if 0 <= value <= _LARGEST_COUNT else None


def _parse(body: bytes, default: object = None) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if default is not None:
            return default
        raise EngineError("sent what is not JSON") from error

"""llama.cpp: ``llama-server``, or the same server embedded by the ``llamacpp`` extra.

Both take one command line and speak one protocol. Sources: llama.cpp's server README, and
measurements on build 11434 where the README is silent or wrong (noted where they matter).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from orchd.config.model import PoolConfig
from orchd.engines.adapter import (
    FIRST_COMPLETION,
    Binary,
    Done,
    EngineRequest,
    Executable,
    Generation,
    Identity,
    Launch,
    PromptProgress,
    PythonModule,
    Refused,
    StreamEvent,
    StreamParser,
    Text,
    Unsaid,
    max_events,
)
from orchd.engines.answers import (
    UNTOLD,
    WORDS_CHARS,
    ServerError,
    count,
    judge_answer,
    judge_in_stream,
    parse_json,
    parse_json_or_none,
    read_version,
)
from orchd.engines.command import refuse_command
from orchd.engines.command_flags import find_joined_flags
from orchd.engines.event_stream import EventStreamReader
from orchd.engines.llamacpp_memory import BATCH_TOKENS, CACHE_RAM_MIB, read_demand
from orchd.engines.memory_demand import DeviceKind, MemoryDemand
from orchd.engines.openai_stream import ChatParser, Dialect
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
        yield from refuse_command(pool)
        yield from find_joined_flags("args", pool.args)
        for n, argument in enumerate(pool.args):
            # llama.cpp reads underscores in a flag as dashes.
            flag = argument.partition("=")[0].replace("_", "-")
            if flag in _OWN_FLAGS:
                yield Fault(f"args[{n}]", f"{flag} is not for args: {_OWN_FLAGS[flag]}")
        for name in pool.env:
            if name.startswith("LLAMA_"):
                yield Fault(f"env.{name}", "llama.cpp's own variables are the daemon's; use args")

    def find_risks(self, pool: PoolConfig) -> Iterator[str]:
        yield from ()

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
        match parse_json(body):
            case {"model_path": str(model), "build_info": str(build)}:
                return Identity(model, read_version(build))
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
        match parse_json(body):
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
        return judge_answer(status, _error_message(parse_json_or_none(body), ""))

    def new_parser(self, generation: Generation) -> StreamParser:
        return CompletionParser() if generation.messages is None else ChatParser(_CHAT)


class CompletionParser:
    """Understands ``/completion``: no ``[DONE]``, the last event has ``"stop": true``."""

    def __init__(self) -> None:
        self._reader = EventStreamReader()

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        for data in self._reader.feed(chunk):
            said = parse_json(data)
            # What comes most goes first and without a pattern: those of mappings take their time.
            if (
                isinstance(said, dict)
                and said.get("stop") is False
                and isinstance(text := said.get("content"), str)
                and text
            ):
                yield Text(text)
            else:
                yield from _read_rare(said)

    def end(self) -> Iterator[StreamEvent]:
        yield from ()


def _read_rare(said: Any) -> Iterator[StreamEvent]:
    match said:
        case {"error": _}:
            yield judge_in_stream(_find_error(said) or ServerError(None, UNTOLD))
        case {
            "prompt_progress": {"processed": int(read), "total": int(total)},
            "content": "",
            "stop": False,
        }:
            yield PromptProgress(read, total)
        case {"content": str(text), "stop": bool(is_last)}:
            # Held-back text (a stop word's start, half a character) comes as "".
            if text:
                yield Text(text)
            elif not is_last:
                yield _UNSAID
            if is_last:
                yield _read_last(said)
        case _:
            raise EngineError("sent an event that is no completion")


def _read_last(said: dict[str, Any]) -> Done:
    return Done(
        finish_reason="length" if said.get("stop_type") == "limit" else "stop",
        tokens_in=count(said, "tokens_evaluated"),
        tokens_out=count(said, "tokens_predicted"),
        decode_ms=count(said, "timings", "predicted_ms"),
    )


def _find_error(said: Mapping[str, Any]) -> ServerError | None:
    """An error in mid-stream, in the one shape that llama.cpp has."""
    if "error" not in said:
        return None
    match said["error"]:
        case {"code": int(status)} if not isinstance(status, bool):
            return ServerError(status, _error_message(said, UNTOLD))
        case _:
            return ServerError(None, _error_message(said, UNTOLD))


def _error_message(said: object, default: str) -> str:
    match said:
        case {"error": {"message": str(message)}}:
            return message[:WORDS_CHARS]
        case _:
            return default


_CHAT = Dialect(_find_error, is_done_needed=True)
"""Its router ends a stream that was cut with a whole body, and without ``[DONE]`` (measured)."""

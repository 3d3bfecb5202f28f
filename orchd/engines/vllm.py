"""vLLM: ``vllm serve`` on one device, spoken to by OpenAI's API.

Sources: vLLM's source up to 0.32 (``entrypoints/launchers/cli_args.py``, ``engine/arg_utils.py``,
``envs.py``, ``v1/metrics/loggers.py``), and its tracker, by number where one is the reason for a
line; what its CPU build was measured to do says so. On a GPU it takes vLLM 0.24: those of before
cannot read a UUID in CUDA_VISIBLE_DEVICES (#45026).

Its key guards ``/v1`` and a few paths more, not ``/invocations`` or ``/tokenize``: whoever has an
account on this machine can use these past the daemon's token. Web pages cannot, for no origin is
allowed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from orchd.config.model import PoolConfig
from orchd.engines import vllm_words
from orchd.engines.adapter import (
    FIRST_COMPLETION,
    Binary,
    EngineRequest,
    Executable,
    Generation,
    Identity,
    Launch,
    Refused,
    StreamParser,
)
from orchd.engines.answers import parse_json, parse_json_or_none, read_version
from orchd.engines.command import refuse_command
from orchd.engines.command_flags import find_joined_flags
from orchd.engines.memory_demand import DeviceKind, MemoryDemand
from orchd.engines.openai_errors import find_error, read_refusal
from orchd.engines.openai_request import make_request
from orchd.engines.openai_stream import ChatParser, CompletionParser, Dialect
from orchd.engines.vllm_flags import find_argument_faults, find_other_faults
from orchd.engines.vllm_memory import (
    batched_tokens,
    decide_cache_gib,
    decide_share,
    read_demand,
)
from orchd.errors import EngineError, Fault

_RUNNING = re.compile(rb"^vllm:num_requests_running(?:\{.*\})?[ \t]+(\S+)", re.MULTILINE)
"""Behind the value there may be a time (Prometheus' text format)."""
_NO_NUMBER = "told of its running requests what is no number"
_STALE_AFTER_S = 3.0
"""Once all of its requests are aborted at once vLLM does not set its figures again before it has
work again (#22545, #29928); a request that was aborted is gone within one batch."""
_DIALECT = Dialect(find_error, is_done_needed=True)
"""It ends every stream with ``[DONE]``, also one that an error ends."""


class Vllm:
    """The adapter; it has no state."""

    def find_faults(self, pool: PoolConfig) -> Iterator[Fault]:
        yield from refuse_command(pool)
        yield from find_joined_flags("args", pool.args)
        yield from find_argument_faults(pool.args)
        yield from find_other_faults(pool)

    def find_risks(self, pool: PoolConfig) -> Iterator[str]:
        yield from ()

    def executables(self, pool: PoolConfig) -> tuple[Executable, ...]:
        return (Binary(pool.binary or "vllm"),)

    def arguments(self, pool: PoolConfig, launch: Launch) -> list[str]:
        arguments = [
            *("serve", launch.model),
            # Otherwise /v1/models would name the folder as the hub's tools see it.
            *("--served-model-name", launch.model),
            # Its default is every interface of the machine.
            *("--host", launch.host),
            *("--port", str(launch.port)),
            *("--allowed-origins", "[]"),
            *("--max-model-len", str(pool.ctx)),
            *("--max-num-seqs", str(pool.slots)),
            *("--max-num-batched-tokens", str(batched_tokens(pool))),
            # No prompt in any log; the others would be a line for each question after its health.
            "--no-enable-log-requests",
            "--disable-uvicorn-access-log",
            "--disable-fastapi-docs",
        ]
        if launch.memory_share is not None:
            share = decide_share(launch.memory_share, launch.reserved_bytes)
            arguments += ["--gpu-memory-utilization", f"{share:.4f}"]
        return [*arguments, *pool.args]

    def environment(self, launch: Launch) -> dict[str, str]:
        environment = {
            "VLLM_API_KEY": launch.key,
            # It tells its makers of the machine and the model unless it is told not to
            # (vllm/usage/usage_lib.py).
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # What its processes say to each other stays on this machine, too.
            "VLLM_HOST_IP": launch.host,
            "VLLM_LOGGING_COLOR": "0",
            "NO_COLOR": "1",
        }
        if launch.device == "cpu":
            space_gib = decide_cache_gib(launch.cache_bytes, launch.reserved_bytes)
            environment["VLLM_CPU_KVCACHE_SPACE"] = str(space_gib)
        if launch.is_cpu_shared:
            # Each would bind its threads to the same cores.
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
            environment["OMP_WAIT_POLICY"] = "passive"
        return environment

    def memory_demand(self, pool: PoolConfig, kind: DeviceKind) -> MemoryDemand:
        return read_demand(pool, kind)

    def health_request(self) -> EngineRequest:
        return EngineRequest("GET", "/health")

    def has_key(self, pool: PoolConfig) -> bool:
        return True

    def identity_request(self) -> EngineRequest:
        return EngineRequest("GET", "/v1/models")

    def read_identity(self, pool: PoolConfig, body: bytes) -> Identity:
        match parse_json(body):
            case {"data": [{"id": str(model)}, *_]}:
                return Identity(model, None)
            case _:
                raise EngineError("answered /v1/models without a model")

    def version_requests(self) -> tuple[EngineRequest, ...]:
        return (EngineRequest("GET", "/version"),)

    def read_version(self, body: bytes) -> str | None:
        match parse_json_or_none(body):
            case {"version": str(version)}:
                return read_version(version)
            case _:
                return None

    def first_generations(self) -> tuple[Generation, ...]:
        return (FIRST_COMPLETION,)

    def read_phase(self, line: str) -> str | None:
        return vllm_words.read_phase(line)

    def find_cause(self, lines: Sequence[str]) -> str:
        return vllm_words.find_cause(lines)

    def slots_request(self) -> EngineRequest | None:
        return EngineRequest("GET", "/metrics")

    def doubts_busy_after_s(self) -> float | None:
        return _STALE_AFTER_S

    def read_busy_slots(self, status: int, body: bytes) -> int:
        # Without figures (args = ["--disable-log-stats"]) there is nothing to be seen.
        if status != 200:
            return 0
        try:
            busy = round(sum(float(value) for value in _RUNNING.findall(body)))
        except (ValueError, OverflowError) as error:
            raise EngineError(_NO_NUMBER) from error
        if busy < 0:
            raise EngineError(_NO_NUMBER)
        return busy

    def generation_request(self, pool: PoolConfig, generation: Generation) -> EngineRequest:
        return make_request(pool, generation)

    def read_refusal(self, status: int, body: bytes) -> Refused:
        return read_refusal(status, body)

    def new_parser(self, generation: Generation) -> StreamParser:
        kind = CompletionParser if generation.messages is None else ChatParser
        return kind(_DIALECT)

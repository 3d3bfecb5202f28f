"""Any server of OpenAI's API, started by the command that the pool gives.

What all of them share is little: ``GET /v1/models`` answers once the server listens, a completion
or a chat is streamed. The rest is what most of them do, with the exceptions noted where they are.

Sources: OpenAI's API reference, and what vLLM, SGLang, TGI, llama.cpp, llama-cpp-python and
mistral.rs were read to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchd.config.model import PoolConfig
from orchd.config.model_form import is_path
from orchd.engines import openai_errors
from orchd.engines.adapter import (
    FIRST_COMPLETION,
    Binary,
    ChatTurn,
    EngineRequest,
    Executable,
    Generation,
    Identity,
    Launch,
    Refused,
    StreamParser,
)
from orchd.engines.answers import parse_json, parse_json_or_none, read_version
from orchd.engines.command import (
    KEY,
    KEY_VARIABLE,
    fill_command,
    find_command_faults,
    find_unfilled,
    holds,
)
from orchd.engines.command_flags import find_joined_flags
from orchd.engines.memory_demand import DeviceKind, MemoryDemand
from orchd.engines.openai_request import make_request
from orchd.engines.openai_stream import ChatParser, CompletionParser
from orchd.errors import EngineError, Fault

_FIRST_CHAT = Generation(
    messages=(ChatTurn("user", "Hello"),), max_tokens=1, sampling={"temperature": 0}
)
_VERSION_PATHS = ("/version", "/props", "/info", "/get_server_info", "/api/version")
"""vLLM's; llama.cpp's; TGI's; SGLang's; Ollama's."""
_NAMES = 5
"""Of the models that a server lists, so many are told."""
_NAME_CHARS = 100
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class OpenAi:
    """The adapter; it has no state."""

    def find_faults(self, pool: PoolConfig) -> Iterator[Fault]:
        yield from find_command_faults(pool.command)
        yield from find_joined_flags("command", pool.command)
        yield from find_joined_flags("args", pool.args)
        if pool.binary is not None:
            yield Fault("binary", 'is not for engine "openai"; its program is the first of command')
        if pool.sha256 is not None and not is_path(pool.engine, pool.model):
            yield Fault(
                "sha256", f"is a file's, and the model {pool.model} is a name; leave it out"
            )
        if pool.vram_mib is None and pool.devices != ("cpu",):
            problem = 'is required with engine "openai" on a GPU: what one replica takes there'
            yield Fault("vram_mib", f'{problem} cannot be reckoned; or devices = ["cpu"]')

    def find_risks(self, pool: PoolConfig) -> Iterator[str]:
        if holds(pool.command, "api_key"):
            mend = f'write it in env instead, such as env = {{ API_KEY = "{KEY}" }}'
            yield f"command holds {KEY}, and a command line is readable by every user; {mend}"
        if not self.has_key(pool):
            mend = f"hand it {KEY} in env or command, if it can ask for a key"
            yield f"its server is given no key: every user of this machine can use it; {mend}"
        for place in find_unfilled(pool):
            yield f"{place}, which is filled in in command alone; there it stays as it is written"
        words = " ".join(pool.command)
        if not holds(pool.command, "host") and not any(host in words for host in _LOOPBACK):
            yield "command holds no {host}: its server may listen beyond this machine"

    def executables(self, pool: PoolConfig) -> tuple[Executable, ...]:
        return (Binary(pool.command[0], key="command[0]"),)

    def arguments(self, pool: PoolConfig, launch: Launch) -> list[str]:
        values = {
            "host": launch.host,
            "port": str(launch.port),
            "model": launch.model,
            "api_key": launch.key,
        }
        return [*fill_command(pool.command[1:], values), *pool.args]

    def environment(self, launch: Launch) -> dict[str, str]:
        environment = {KEY_VARIABLE: launch.key}
        if launch.is_cpu_shared:
            # As with llama.cpp: OpenMP threads of two servers that spin on the same cores.
            environment["OMP_WAIT_POLICY"] = "passive"
        return environment

    def memory_demand(self, pool: PoolConfig, kind: DeviceKind) -> MemoryDemand:
        note = "what a server takes beside its model is not known; vram_mib says it"
        return MemoryDemand(pool.ctx, pool.slots, batch_tokens=0, notes=(note,))

    def health_request(self) -> EngineRequest:
        # Not all have a /health, and some of those answer it before they have loaded.
        return EngineRequest("GET", "/v1/models")

    def has_key(self, pool: PoolConfig) -> bool:
        is_named = any(KEY_VARIABLE in word for word in pool.command)
        is_in_env = any(KEY in value for value in pool.env.values())
        return is_named or is_in_env or holds(pool.command, "api_key")

    def identity_request(self) -> EngineRequest:
        return EngineRequest("GET", "/v1/models")

    def read_identity(self, pool: PoolConfig, body: bytes) -> Identity:
        """The pool's model, if it is listed. If what is listed is one model under another name, or
        none, it is that too where the command was given ours: servers call it as they like, and
        many look at no name (llama.cpp). Where it was not, a reload would seem to change the model.

        Our name is sent with each task, so the first token shows that the server takes it."""
        match parse_json(body):
            case {"data": [*models]}:
                listed = [model for model in models if isinstance(model, dict)]
            case _:
                raise EngineError("answered /v1/models without a list of models")
        # vLLM has a served name as the id and the model itself as its root.
        names = [name for key in ("id", "root") for model in listed if (name := model.get(key))]
        is_given = holds(pool.command, "model")
        # None at all is listed by servers that list what a cache holds (transformers serve).
        if pool.model in names or (is_given and len(listed) < 2):
            return Identity(pool.model, None)
        told = ", ".join(str(model.get("id"))[:_NAME_CHARS] for model in listed[:_NAMES])
        raise EngineError(
            f"does not list {pool.model[:_NAME_CHARS]} in /v1/models, but {told or 'nothing'};"
            " write the pool's model as the server names it"
        )

    def version_requests(self) -> tuple[EngineRequest, ...]:
        return tuple(EngineRequest("GET", path) for path in _VERSION_PATHS)

    def read_version(self, body: bytes) -> str | None:
        match parse_json_or_none(body):
            case {"version": str(version)} | {"build_info": str(version)}:
                return read_version(version)
            case _:
                return None

    def first_generations(self) -> tuple[Generation, ...]:
        return FIRST_COMPLETION, _FIRST_CHAT

    def read_phase(self, line: str) -> str | None:
        return None

    def find_cause(self, lines: Sequence[str]) -> str:
        return ""

    def slots_request(self) -> EngineRequest | None:
        return None

    def doubts_busy_after_s(self) -> float | None:
        return None

    def read_busy_slots(self, status: int, body: bytes) -> int:
        return 0

    def generation_request(self, pool: PoolConfig, generation: Generation) -> EngineRequest:
        return make_request(pool, generation)

    def read_refusal(self, status: int, body: bytes) -> Refused:
        return openai_errors.read_refusal(status, body)

    def new_parser(self, generation: Generation) -> StreamParser:
        return CompletionParser() if generation.messages is None else ChatParser()

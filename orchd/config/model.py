"""The configuration's model: each key with its type, default, bounds and doc, declared only here.

The validator and the JSON schema are both driven by these classes; a new key is one line. Values
are immutable, and paths are plain text until ``load`` has made them absolute. What an engine
allows in ``args`` and ``env`` beyond this page is that engine's own knowledge, see
``validate.EngineRule``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Literal

from orchd.config.listen import AnyListen, Listen, parse_listen
from orchd.config.marks import (
    Alone,
    Bounds,
    Doc,
    Exclusive,
    Inherits,
    Length,
    Parsed,
    Pattern,
    Reserved,
    Secret,
    Unique,
)

TOKEN_FORM = Pattern(r"[\x21-\x7e]{1,4096}", "1 to 4096 printable ASCII characters without a space")
"""What can travel in an ``Authorization`` header; every source of a token is held to it."""

_UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"


def _any_case(*words: str) -> str:
    """A pattern without flags, which a JSON schema has not."""
    return "|".join("".join(f"[{c.upper()}{c}]" for c in word) for word in words)


_DEVICE_NAME = (
    # What is written by mistake for one of the other forms, and is in no product's name.
    rf"(?!{_any_case('gpu', 'cuda', 'cpu')}|(?:{_any_case('auto', 'all', 'any', 'none')})$)"
    r"[A-Za-z0-9][A-Za-z0-9 ./()+_-]{0,62}[A-Za-z0-9)]"
)
_DEVICE_TEXT = Pattern(
    rf"auto|cpu|0*[0-9]{{1,2}}|GPU-{_UUID}|{_DEVICE_NAME}",
    '"auto", "cpu", a GPU\'s index as nvidia-smi counts, its full UUID ("GPU-" and 36 characters)'
    ' or its product name or a part of it ("RTX 3090")',
)
_INDEX_MAX = 99


def parse_device(written: int | str) -> str:
    """Give a device its one spelling: indexes without leading zeros, UUIDs in lower case.

    Digits beyond any index are a part of a product's name (``3090``).
    """
    text = str(written)
    if text.isdigit() and int(text) <= _INDEX_MAX:
        return str(int(text))
    return "GPU-" + text[4:].lower() if text.startswith("GPU-") else text


FilePath = Annotated[str, Length(1, 4096)]
SpanS = Annotated[float, Bounds(1, 86_400)]
QueueBound = Annotated[int, Bounds(1, 100_000)]
Device = Annotated[
    str, Parsed(Annotated[int, Bounds(0, _INDEX_MAX)] | Annotated[str, _DEVICE_TEXT], parse_device)
]
EnvName = Annotated[
    str,
    Length(1, 256),
    Pattern(r"[A-Za-z_][A-Za-z0-9_]*", "a name of letters, digits and _, no digit first"),
    Reserved(
        {
            "CUDA_VISIBLE_DEVICES": "write the pool's devices instead",
            "CUDA_DEVICE_ORDER": "write the pool's devices instead, they need no order",
        }
    ),
]
EnvValue = Annotated[str, Length(0, 32_768), Secret()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """``[server]``: the daemon's own edge."""

    listen: Annotated[
        AnyListen,
        Parsed(str, parse_listen),
        Doc('Where to listen: "host:port" (port 0: the system chooses) or "unix:/path".'),
    ] = Listen("127.0.0.1", 8642)
    stop_grace_s: Annotated[
        float, Bounds(0, 3600), Doc("Seconds that running tasks are given to finish at a stop.")
    ] = 20.0
    max_connections: Annotated[
        int, Bounds(1, 65_536), Doc("Connections open at once; further ones get 503.")
    ] = 512
    max_head_bytes: Annotated[
        int, Bounds(1024, 1_048_576), Doc("Bytes of a request's line and header fields.")
    ] = 32_768
    max_headers: Annotated[int, Bounds(10, 10_000), Doc("Header fields of a request.")] = 100
    max_body_bytes: Annotated[
        int, Bounds(1024, 1_073_741_824), Doc("Bytes of a request's body.")
    ] = 8_388_608
    head_timeout_s: Annotated[
        SpanS, Doc("Seconds that a request's head may take to come, from its first byte on.")
    ] = 10.0
    body_timeout_s: Annotated[
        SpanS, Doc("Seconds that a request's body may take to come, from its head on.")
    ] = 30.0
    keep_alive_s: Annotated[
        SpanS, Doc("Seconds that a connection may be idle between two requests.")
    ] = 75.0
    reader_stall_s: Annotated[
        SpanS, Doc("Seconds after which a client that takes no byte of its reply is dropped.")
    ] = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthConfig:
    """``[auth]``: the one API token, in the file itself or beside it."""

    token: Annotated[str | None, Secret(), TOKEN_FORM, Doc("The API token itself.")] = field(
        default=None, repr=False
    )
    token_file: Annotated[
        FilePath | None, Doc("A file that holds the API token and nothing else.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueConfig:
    """``[queue]`` and ``[pools.queue]``: how many tasks may wait before 429."""

    interactive: Annotated[QueueBound, Doc("Waiting tasks of priority interactive.")] = 64
    batch: Annotated[QueueBound, Doc("Waiting tasks of priority batch.")] = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksConfig:
    """``[tasks]``: what becomes of tasks that nobody reads."""

    retain_s: Annotated[
        SpanS, Doc("Seconds for which a finished task's events can still be fetched.")
    ] = 300.0
    abandon_after_s: Annotated[
        SpanS, Doc("Seconds after which an interactive task that nobody streams is cancelled.")
    ] = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """``[[pools]]``: identical replicas of one model on one engine."""

    id: Annotated[
        str,
        Pattern(
            r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
            "1 to 64 letters, digits, dots, _ and -, the first a letter or digit",
        ),
        Doc("The pool's name, as clients and /health say it."),
    ]
    engine: Annotated[
        Literal["llamacpp", "vllm", "openai"], Doc("The engine that serves the model.")
    ]
    model: Annotated[
        FilePath,
        Doc(
            "The model's file (llamacpp); its folder, or its name on the hub, org/model (vllm); its"
            " name (openai). A relative path starts at this file's folder; where it may be a name,"
            " write ./ first."
        ),
    ]
    sha256: Annotated[
        Annotated[
            str, Pattern(r"[0-9a-fA-F]{64}", "64 hexadecimal digits, as sha256sum writes them")
        ]
        | None,
        Doc("What the model file must hash to; a file beside it, <model>.sha256, can say it too."),
    ] = None
    replicas: Annotated[
        Annotated[int, Bounds(1, 64)] | Literal["per-device"],
        Doc('How many replicas to keep, or "per-device": one on every allowed device.'),
    ] = 1
    slots: Annotated[int, Bounds(1, 256), Doc("Tasks that one replica decodes at once.")] = 4
    ctx: Annotated[int, Bounds(1, 10_000_000), Doc("Tokens of context for each slot.")] = 4096
    devices: Annotated[
        tuple[Device, ...],
        Length(1, 64),
        Unique(),
        Alone("auto", beside=("cpu",)),
        Doc('"auto" (every NVIDIA GPU), or UUIDs, indexes, product names; "cpu" beside either.'),
    ] = ("auto",)
    vram_mib: Annotated[
        Annotated[int, Bounds(1, 1_048_576)] | None,
        Doc("MiB that one replica needs on its device, where the reckoning is not trusted."),
    ] = None
    args: Annotated[
        tuple[Annotated[str, Length(0, 32_768)], ...],
        Length(0, 256),
        Doc("Appended to the engine's command line."),
    ] = ()
    env: Annotated[
        Mapping[EnvName, EnvValue],
        Length(0, 256),
        Doc("Added to the engine's environment; {api_key} in a value is the engine's key."),
    ] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    command: Annotated[
        tuple[Annotated[str, Length(0, 32_768)], ...],
        Length(0, 256),
        Doc(
            'Engine "openai": what starts the server; {host}, {port}, {model} and {api_key} are'
            " filled in, {{ and }} are braces."
        ),
    ] = ()
    binary: Annotated[
        FilePath | None, Doc("The engine's program: a path, or a name looked up on PATH.")
    ] = None
    load_stall_s: Annotated[
        SpanS, Doc("Seconds without any progress after which a load has failed.")
    ] = 120.0
    decode_stall_s: Annotated[
        SpanS,
        Doc("Seconds without a token or prompt progress after which a running task has failed."),
    ] = 60.0
    queue: Annotated[
        QueueConfig, Inherits("queue"), Doc("This pool's own bounds, over those of [queue].")
    ] = field(default_factory=QueueConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file."""

    server: Annotated[ServerConfig, Doc("The daemon's own edge.")] = field(
        default_factory=ServerConfig
    )
    auth: Annotated[AuthConfig, Exclusive(("token", "token_file")), Doc("The API token.")] = field(
        default_factory=AuthConfig
    )
    queue: Annotated[QueueConfig, Doc("Queue bounds of every pool that has no own.")] = field(
        default_factory=QueueConfig
    )
    tasks: Annotated[TasksConfig, Doc("What becomes of tasks that nobody reads.")] = field(
        default_factory=TasksConfig
    )
    pools: Annotated[
        tuple[PoolConfig, ...],
        Length(1, 64),
        Unique("id"),
        Doc("The pools, each a [[pools]] table with at least id, engine and model."),
    ]

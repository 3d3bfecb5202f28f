"""What an engine is to the rest of the house: how it is launched, proven, asked and understood.

A further engine is one file with a class that satisfies ``Adapter``, and one row in ``registry``.
Everything here is a value or a pure function of values; who runs and who talks is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from orchd.config.model import PoolConfig
from orchd.engines.memory_demand import DeviceKind, MemoryDemand
from orchd.errors import Fault

FinishReason = Literal["stop", "length"]


# -- what is asked of an engine ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """One turn of a conversation; the engine applies the model's own template."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What to generate. Exactly one of ``prompt`` and ``messages`` is set."""

    prompt: str | None = field(default=None, repr=False)
    messages: tuple[ChatTurn, ...] | None = field(default=None, repr=False)
    max_tokens: int | None = None
    """None: until the model stops or its context is full."""
    sampling: Mapping[str, int | float] = field(default_factory=dict)
    """Of ``seed``, ``temperature``, ``top_p``, ``top_k``, ``min_p`` those that were given."""
    stop: tuple[str, ...] = ()


FIRST_COMPLETION = Generation(prompt="Hello", max_tokens=1, sampling={"temperature": 0})
"""A first token, asked for with a prompt."""


def max_events(pool: PoolConfig, generation: Generation) -> int:
    """How many pieces of text the answer can have: each holds a token at least."""
    return pool.ctx if generation.max_tokens is None else generation.max_tokens


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One HTTP request to an engine; the client adds host, key and length."""

    method: Literal["GET", "POST"]
    path: str
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where one replica answers, and the key that only it and we know."""

    replica_id: str
    host: str
    port: int
    key: str = field(repr=False)


# -- what an engine says -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of the answer: whole UTF-8, never empty, one or more tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Unsaid:
    """A token of which the reader gets nothing: a thought, a tool call, half a character."""


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """How much of the task's prompt the engine has read; the same may be told again."""

    read_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Done:
    """The engine's own last word on a generation. Counts are None where it keeps none."""

    finish_reason: FinishReason
    tokens_in: int | None
    tokens_out: int | None
    decode_ms: int | None


@dataclass(frozen=True, slots=True)
class Refused:
    """The engine will not do this task, and says why: the task is at fault, not the engine."""

    message: str
    is_busy: bool = False
    """Not now: the task is not at fault either."""


StreamEvent = Text | Unsaid | PromptProgress | Done | Refused


class StreamParser(Protocol):
    """Turns one response body into events, however it is torn into chunks."""

    def feed(self, chunk: bytes) -> Iterable[StreamEvent]:
        """Events that this chunk completes. Raises EngineError on what the engine may not say,
        after the events that came before it."""

    def end(self) -> Iterable[StreamEvent]:
        """Events that the body's own end completes; what is cut short before it never ends so."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who answered: proof that the engine behind the port is the one that we started."""

    model: str
    version: str | None
    """None where this answer does not tell."""


# -- how an engine is started ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Binary:
    """An executable, by path or by name on PATH."""

    name: str
    key: str = "binary"
    """Where the pool names it."""


@dataclass(frozen=True, slots=True)
class PythonModule:
    """A launcher of ours that needs the importable package ``requires``."""

    script: str
    """File name inside ``orchd/engines``."""
    requires: str
    hint: str
    """How a user gets the package."""


Executable = Binary | PythonModule


@dataclass(frozen=True, slots=True)
class Launch:
    """What a replica is started with."""

    model: str
    device: str
    """A GPU's UUID, or ``cpu``."""
    host: str
    port: int
    key: str = field(repr=False)
    is_cpu_shared: bool = False
    """True where more than one replica computes on this machine's CPU."""
    memory_share: float | None = None
    """Of a GPU's whole memory, the share that is reserved for it."""
    reserved_bytes: int = 0
    """What is reserved for it of its device's memory."""
    cache_bytes: int | None = None
    """The part of that which was reckoned for the cache of its slots; None where none was."""


# -- the engine itself -------------------------------------------------------------------------


class Adapter(Protocol):
    """One kind of engine."""

    def find_faults(self, pool: PoolConfig) -> Iterable[Fault]:
        """What this engine has against a pool's configuration; paths count from the pool."""

    def find_risks(self, pool: PoolConfig) -> Iterable[str]:
        """What its user should know of a configuration that is no fault, told at each start."""

    def executables(self, pool: PoolConfig) -> tuple[Executable, ...]:
        """What could run it, best first; the first that this machine has is taken."""

    def arguments(self, pool: PoolConfig, launch: Launch) -> list[str]:
        """The command line behind the executable. Holds no secret of its own accord."""

    def environment(self, launch: Launch) -> dict[str, str]:
        """What the engine's environment needs beyond the plain one and the pool's; the key travels
        here."""

    def memory_demand(self, pool: PoolConfig, kind: DeviceKind) -> MemoryDemand:
        """What a replica of this pool takes of a device of that kind."""

    def health_request(self) -> EngineRequest:
        """The cheap question that is repeated until the engine has loaded."""

    def has_key(self, pool: PoolConfig) -> bool:
        """Whether it is started so that it refuses everybody who has not its key."""

    def identity_request(self) -> EngineRequest:
        """The question whose answer ``read_identity`` understands. It must need the key, if there
        is one."""

    def read_identity(self, pool: PoolConfig, body: bytes) -> Identity:
        """Who answers, and with which model. Raises EngineError where this is no such engine."""

    def version_requests(self) -> tuple[EngineRequest, ...]:
        """Where to ask for the version that the identity did not tell, best first."""

    def read_version(self, body: bytes) -> str | None:
        """Of a 200 answer to one of those; None where it does not tell, whatever it is."""

    def first_generations(self) -> tuple[Generation, ...]:
        """What its first token is asked with; the next one where it has no such endpoint."""

    def read_phase(self, line: str) -> str | None:
        """What a line of its output tells of how far its load has come, in a few words for the
        user; None for a line that tells nothing of it."""

    def find_cause(self, lines: Sequence[str]) -> str:
        """Of its last lines of output, the one that says why it is gone, where it is known how it
        says that; else empty."""

    def slots_request(self) -> EngineRequest | None:
        """The question how many slots are at work; None for an engine that cannot tell."""

    def doubts_busy_after_s(self) -> float | None:
        """How long more busy slots than there should be are believed, where the figure may be an
        old one; None where it is always today's."""

    def read_busy_slots(self, status: int, body: bytes) -> int:
        """How many are; 0 where it will not say. Raises EngineError on what is no answer."""

    def generation_request(self, pool: PoolConfig, generation: Generation) -> EngineRequest:
        """The request that streams this generation."""

    def read_refusal(self, status: int, body: bytes) -> Refused:
        """Understand an answer other than 200; raises EngineError where the engine is at fault, or
        where it is not ours that answers."""

    def new_parser(self, generation: Generation) -> StreamParser:
        """A parser for the 200 answer to ``generation_request``."""

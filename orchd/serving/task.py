"""A task and its states.

The way is QUEUED → GRANTED → STARTED → ENDED. ``STARTED`` is the engine's own word that it took
the task. A task whose replica broke before the first token goes back to QUEUED, once. The table
below lists every step that is allowed; any other is a bug and raises AssertionError.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum, auto
from typing import assert_never

from orchd.engines.adapter import Done, FinishReason, Generation, PromptProgress, Refused
from orchd.errors import Code


class Priority(StrEnum):
    """The two priorities, the one that goes first named first."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class State(Enum):
    """Where a task stands."""

    QUEUED = auto()
    GRANTED = auto()
    STARTED = auto()
    ENDED = auto()


class Step(Enum):
    """What can happen to a task."""

    GRANT = auto()
    """It was given a slot."""
    START = auto()
    """The engine accepted it."""
    REQUEUE = auto()
    """Its replica broke before the first token."""
    END = auto()
    """Its terminal event was logged."""


_STEPS: dict[tuple[State, Step], State] = {
    (State.QUEUED, Step.GRANT): State.GRANTED,
    (State.QUEUED, Step.END): State.ENDED,
    (State.GRANTED, Step.START): State.STARTED,
    (State.GRANTED, Step.REQUEUE): State.QUEUED,
    (State.GRANTED, Step.END): State.ENDED,
    (State.STARTED, Step.REQUEUE): State.QUEUED,
    (State.STARTED, Step.END): State.ENDED,
}


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a client asked for, valid and complete."""

    task_id: str
    pool_id: str
    priority: Priority
    session_id: str | None
    generation: Generation
    size_bytes: int = 0
    """What the request took on the wire, and takes of memory while it waits."""


@dataclass(slots=True)
class Task:
    """One admitted task."""

    spec: TaskSpec
    queue_position: int
    """Tasks that were to start before this one when it was admitted."""
    predicted_start_ms: int | None = 0
    """None when unknown."""
    state: State = State.QUEUED
    tokens_logged: int = 0
    """Token events so far; the next one's ``i``."""
    prompt: PromptProgress | None = None
    """How far the engine has read it, where it tells."""
    requeues: int = 0
    turn: int = 0
    """Its place in the order of admission; the queue gives it."""

    def step(self, step: Step) -> None:
        """Take one step of the table. An ended task forgets what it was asked.

        It is kept for its log only, and a prompt can be larger than any log.
        """
        following = _STEPS.get((self.state, step))
        assert following is not None, f"task {self.spec.task_id}: {step} in {self.state}"
        self.state = following
        if step is Step.REQUEUE:
            self.requeues += 1
            self.prompt = None
        if following is State.ENDED:
            self.spec = replace(self.spec, generation=Generation())

    def describe_end(self, done: Done, decode_s: float) -> Ended:
        """The engine's own figures; ours only where it keeps none."""
        return Ended(
            tokens_in=done.tokens_in or 0,
            tokens_out=self.tokens_logged if done.tokens_out is None else done.tokens_out,
            decode_ms=round(decode_s * 1000) if done.decode_ms is None else done.decode_ms,
            finish_reason=done.finish_reason,
            is_estimated=done.tokens_in is None or done.tokens_out is None,
        )

    @property
    def has_ended(self) -> bool:
        return self.state is State.ENDED

    @property
    def can_requeue(self) -> bool:
        """Nobody has seen a token of it, and it has not had its second chance yet."""
        return self.tokens_logged == 0 and self.requeues == 0


# -- what is told to the task's readers ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    queue_position: int
    predicted_start_ms: int | None


@dataclass(frozen=True, slots=True)
class Token:
    text: str = field(repr=False)
    index: int


@dataclass(frozen=True, slots=True)
class Ended:
    tokens_in: int
    tokens_out: int
    decode_ms: int
    finish_reason: FinishReason
    is_estimated: bool = False
    """The engine did not count: what it read is not known (0), and what it wrote was counted by
    its pieces."""


@dataclass(frozen=True, slots=True)
class Failed:
    code: Code
    message: str
    engine: str | None


TaskEvent = Started | Token | Ended | Failed


# -- what a run comes to ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Broken:
    """The engine did not finish the task, and the task is not to blame."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stalled:
    """The engine made no progress at the task for so long. It is never tried again: it may be the
    one that hangs the engine."""

    stall_s: float


@dataclass(frozen=True, slots=True)
class Bug:
    """The daemon itself failed at the task; the log has the traceback."""


Doubt = Broken | Stalled
"""What makes its replica doubted."""
Outcome = Done | Refused | Doubt | Bug


def describe_failure(
    outcome: Refused | Broken | Stalled | Bug, replica_id: str, engine: str
) -> Failed:
    """The terminal event of a task that came to that on a replica, and is not tried again."""
    match outcome:
        case Refused(message, is_busy):
            code = Code.POOL_UNAVAILABLE if is_busy else Code.INVALID_PARAMS
            return Failed(code, message, engine)
        case Broken(reason):
            return Failed(Code.WORKER_RESET, f"replica {replica_id} {reason}", engine)
        case Stalled(stall_s):
            message = f"replica {replica_id} made no progress for {stall_s:g} s"
            return Failed(Code.DECODE_TIMEOUT, message, engine)
        case Bug():
            return Failed(Code.INTERNAL, "a bug in orchd", engine)
        case _:
            assert_never(outcome)


# -- what a submission gets ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """The task is in the queue, or has its slot already."""

    task_id: str
    queue_position: int
    predicted_start_ms: int | None
    backoff_ms: int
    """How long to wait before the next task of this priority; 0 while there is room."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The task was not taken and left no trace."""

    code: Code
    message: str
    engine: str | None = None
    backoff_s: float | None = None
    """When it is worth coming back, where that can be told."""

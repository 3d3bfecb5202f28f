"""What the log tells of a task at its end: when it waited, what it came to, never what it said.

Invariant: there is an account of each task that has not ended, and of no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchd.engines.adapter import FinishReason
from orchd.serving.task import Ended, Failed, Priority, Task

_UNKNOWN = "-"

Figure = str | int | float


@dataclass(frozen=True, slots=True)
class EndReport:
    """How a task was served; None is what it never came to, or what nobody knows."""

    task_id: str
    pool_id: str
    replica_id: str | None
    """Where it ran last."""
    priority: Priority
    outcome: str
    """``end``, or the code of its error."""
    finish_reason: FinishReason | None
    waited_s: float
    """To its first slot, or to its end."""
    ttft_s: float | None
    """From its admission to its first piece of text."""
    tokens_in: int | None
    tokens_out: int
    """Of a failed one the pieces that it wrote: the engine's own figures never came."""
    rate: float | None
    """Tokens a second."""

    @property
    def line(self) -> tuple[str, *tuple[Figure, ...]]:
        """One line of the log: a template, and what goes into it."""
        figures = (
            *(self.task_id, self.pool_id, self.replica_id, self.priority.value, self.outcome),
            *(self.finish_reason, self.waited_s, self.ttft_s),
            *(self.tokens_in, self.tokens_out, self.rate),
        )
        return (
            "ended a task task=%s pool=%s replica=%s priority=%s outcome=%s finish=%s"
            " waited_s=%s ttft_s=%s tokens_in=%s tokens_out=%s rate=%s",
            *(_UNKNOWN if figure is None else figure for figure in figures),
        )


@dataclass(slots=True)
class _Account:
    """Instants of the loop's clock, each of the first time; None: it has not happened."""

    admitted_s: float
    granted_s: float | None = None
    replica_id: str | None = None
    """The last one."""
    token_s: float | None = None


class Accounts:
    """One pool's; ``now_s`` is the loop's clock."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._accounts: dict[str, _Account] = {}

    def open(self, task: Task) -> None:
        """It was admitted."""
        self._accounts[task.spec.task_id] = _Account(self._now_s())

    def note_grant(self, task: Task, replica_id: str) -> None:
        """It was given a slot, for the first or the second time."""
        account = self._accounts[task.spec.task_id]
        account.replica_id = replica_id
        if account.granted_s is None:
            account.granted_s = self._now_s()

    def note_text(self, task: Task) -> None:
        """A piece of its answer has come, to be logged next: a reader may end the task at that."""
        if task.tokens_logged == 0:
            self._accounts[task.spec.task_id].token_s = self._now_s()

    def decode_s(self, task: Task, service_s: float) -> float:
        """Since its first piece of text, as llama.cpp counts itself; its whole service without."""
        token_s = self._accounts[task.spec.task_id].token_s
        return service_s if token_s is None else self._now_s() - token_s

    def close(self, task: Task, event: Ended | Failed) -> EndReport:
        """It has ended."""
        account = self._accounts.pop(task.spec.task_id)
        return _report(task, event, account, self._now_s())


def _report(task: Task, event: Ended | Failed, account: _Account, now_s: float) -> EndReport:
    spec, began_s, token_s = task.spec, account.admitted_s, account.token_s
    granted_s = now_s if account.granted_s is None else account.granted_s
    where = (spec.task_id, spec.pool_id, account.replica_id, spec.priority)
    ttft_s = None if token_s is None else round(token_s - began_s, 3)
    times = (round(granted_s - began_s, 3), ttft_s)
    match event:
        case Ended(tokens_in, tokens_out, decode_ms, finish_reason):
            rate = round(tokens_out * 1000 / decode_ms, 1) if decode_ms > 0 else None
            return EndReport(*where, "end", finish_reason, *times, tokens_in, tokens_out, rate)
        case Failed(code):
            return EndReport(*where, code.value, None, *times, None, task.tokens_logged, None)

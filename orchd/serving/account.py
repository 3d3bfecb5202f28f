"""What the log tells of a task at its end: when it waited, what it came to, never what it said.

Invariant: there is an account of each task that has not ended, and of no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchd.serving.task import Ended, Failed, Task

_ENDED_LINE = (
    "ended a task task=%s pool=%s replica=%s priority=%s outcome=%s finish=%s"
    " waited_s=%s ttft_s=%s tokens_in=%s tokens_out=%s rate=%s"
)
_UNKNOWN = "-"

Figure = str | int | float


@dataclass(frozen=True, slots=True)
class EndReport:
    """One line of the log: a template and what goes into it."""

    arguments: tuple[Figure, ...]
    template: str = _ENDED_LINE


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

    def close(self, task: Task, event: Ended | Failed) -> EndReport:
        """It has ended."""
        account = self._accounts.pop(task.spec.task_id)
        return _report(task, event, account, self._now_s())


def _report(task: Task, event: Ended | Failed, account: _Account, now_s: float) -> EndReport:
    spec, began_s = task.spec, account.admitted_s
    granted_s = now_s if account.granted_s is None else account.granted_s
    head = (spec.task_id, spec.pool_id, account.replica_id or _UNKNOWN, spec.priority.value)
    ttft_s = _UNKNOWN if account.token_s is None else round(account.token_s - began_s, 3)
    times = (round(granted_s - began_s, 3), ttft_s)
    match event:
        case Ended(tokens_in, tokens_out, decode_ms, finish_reason):
            rate = round(tokens_out * 1000 / decode_ms, 1) if decode_ms > 0 else _UNKNOWN
            return EndReport(
                (*head, "end", finish_reason, *times, tokens_in, tokens_out, rate),
            )
        case Failed(code):
            # Of the answer's pieces we know; the engine's own figures never came.
            tail = (_UNKNOWN, task.tokens_logged, _UNKNOWN)
            return EndReport((*head, code.value, _UNKNOWN, *times, *tail))

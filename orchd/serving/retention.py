"""Which ended tasks are still kept so that their events can be fetched again.

A task is forgotten ``retain_s`` after its end, or earlier, the oldest first, when those that are
kept take more memory together than ``budget_bytes``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Kept:
    task_id: str
    size_bytes: int
    until_s: float


class Retention:
    """The ended tasks, oldest first."""

    def __init__(self, retain_s: float, budget_bytes: int) -> None:
        self._retain_s = retain_s
        self._budget_bytes = budget_bytes
        self._kept: deque[_Kept] = deque()
        self._size_bytes = 0

    def keep(self, task_id: str, size_bytes: int, now_s: float) -> None:
        """A task has ended; it takes that many bytes."""
        self._kept.append(_Kept(task_id, size_bytes, now_s + self._retain_s))
        self._size_bytes += size_bytes

    def expire(self, now_s: float) -> list[str]:
        """Ids of the tasks to forget now."""
        expired: list[str] = []
        while self._kept and (
            self._kept[0].until_s <= now_s or self._size_bytes > self._budget_bytes
        ):
            oldest = self._kept.popleft()
            self._size_bytes -= oldest.size_bytes
            expired.append(oldest.task_id)
        return expired

    @property
    def next_expiry_s(self) -> float | None:
        """When ``expire`` has something to say again, if nothing else is kept meanwhile."""
        return self._kept[0].until_s if self._kept else None

"""Every task that can be asked about: those that live, and for a while those that have ended."""

from __future__ import annotations

import asyncio

from orchd.serving.entry import Entry
from orchd.serving.retention import Retention

RETAINED_BYTES = 64 * 1024 * 1024
"""How much memory the ended tasks may take together."""
ENTRY_COST_BYTES = 1200
"""What an ended task takes beside its frames (measured)."""


class Register:
    """Entries by task id, and the one timer that forgets the ended ones."""

    def __init__(
        self,
        retain_s: float,
        loop: asyncio.AbstractEventLoop,
        retained_bytes: int = RETAINED_BYTES,
    ) -> None:
        self._loop = loop
        self._entries: dict[str, Entry] = {}
        self._retention = Retention(retain_s, retained_bytes)
        self._timer: asyncio.TimerHandle | None = None

    def get(self, task_id: str) -> Entry | None:
        return self._entries.get(task_id)

    def entries(self) -> tuple[Entry, ...]:
        """All of them, as they are now."""
        return tuple(self._entries.values())

    def add(self, entry: Entry) -> None:
        self._entries[entry.task.spec.task_id] = entry

    def retire(self, entry: Entry) -> None:
        """The task has ended: keep it for a while."""
        now_s = self._loop.time()
        cost_bytes = ENTRY_COST_BYTES + entry.log.cost_bytes
        self._retention.keep(entry.task.spec.task_id, cost_bytes, now_s)
        self._forget_expired()

    def close(self) -> None:
        """Forget nothing any more; no timer is left."""
        if self._timer is not None:
            self._timer.cancel()

    def _forget_expired(self) -> None:
        expired = self._retention.expire(self._loop.time())
        for task_id in expired:
            del self._entries[task_id]
        if expired or self._timer is None:
            self.close()
            at_s = self._retention.next_expiry_s
            self._timer = None if at_s is None else self._loop.call_at(at_s, self._forget)

    def _forget(self) -> None:
        self._timer = None
        self._forget_expired()

"""What the serving tells of its tasks to whoever keeps count."""

from __future__ import annotations

from typing import Protocol

from orchd.serving.task import Priority


class Tally(Protocol):
    """Counts; it never raises and never looks back into the serving."""

    def count_enqueued(self, pool_id: str, replica_id: str | None, priority: Priority) -> None:
        """A task was admitted; the replica took it at once, None where it has to wait for one."""

    def count_ended(
        self, pool_id: str, replica_id: str | None, tokens_in: int, tokens_out: int
    ) -> None:
        """A task has had its terminal event. It ran on that replica last, on none if None."""


class NoTally:
    """For a house that counts nothing."""

    def count_enqueued(self, pool_id: str, replica_id: str | None, priority: Priority) -> None: ...

    def count_ended(
        self, pool_id: str, replica_id: str | None, tokens_in: int, tokens_out: int
    ) -> None: ...

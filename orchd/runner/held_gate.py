"""A slot gate between the replicas of one model and the serving side, which can be shut.

A new model's replicas come up behind it: each has proven itself when it opens its slots, and all of
them begin to serve in one loop turn. Invariant: what has passed is closed where it was opened.
"""

from __future__ import annotations

from collections.abc import Awaitable

from orchd.config.model import PoolConfig
from orchd.engines.adapter import Endpoint
from orchd.runner.slot_gate import SlotGate


class HeldGate:
    """One for each generation of replicas."""

    def __init__(self, gate: SlotGate, *, is_open: bool) -> None:
        self._gate = gate
        self._is_open = is_open
        self._held: dict[str, tuple[PoolConfig, Endpoint]] = {}

    def open(self) -> None:
        """Let through all that waits, and whatever comes from now on."""
        self._is_open = True
        held, self._held = self._held, {}
        for config, endpoint in held.values():
            self._gate.open_slots(config, endpoint)

    def shut(self) -> None:
        """Let nothing more through; what has passed is closed where it was opened."""
        self._is_open = False

    def open_slots(self, config: PoolConfig, endpoint: Endpoint) -> None:
        if self._is_open:
            self._gate.open_slots(config, endpoint)
        else:
            self._held[endpoint.replica_id] = (config, endpoint)

    def retire_slots(self, pool_id: str, replica_id: str) -> Awaitable[None]:
        assert self._is_open, "what does not serve has nothing to finish"
        return self._gate.retire_slots(pool_id, replica_id)

    def close_slots(self, pool_id: str, replica_id: str) -> tuple[str, ...]:
        if self._held.pop(replica_id, None) is not None:
            return ()
        return self._gate.close_slots(pool_id, replica_id)

"""One pool as its replicas are kept: its active generation, and in a reload the other one.

Invariants: there are two generations at most, and no two replicas of them have the same id; which
one is active changes in ``switch`` alone, in one loop turn with the slots of both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import replace

from orchd.config.model import PoolConfig
from orchd.runner.allowed import allow
from orchd.runner.generation import BuildReplica, Generation
from orchd.runner.incident import IncidentLog
from orchd.runner.lifecycle import State
from orchd.runner.model_history import ModelHistory
from orchd.runner.placement import ReplicaPlan, list_wanted, number_replicas
from orchd.runner.reload_status import ReloadStatus
from orchd.runner.replica import Replica
from orchd.runner.slot_gate import SlotGate
from orchd.runner.snapshot import UNSEEN, Snapshot
from orchd.runner.status import PoolStatus, ReplicaStatus


class Pool:
    """One pool, for as long as the daemon lives."""

    def __init__(
        self, configured: PoolConfig, build: BuildReplica, gate: SlotGate, incidents: IncidentLog
    ) -> None:
        self.id = configured.id
        self.models = ModelHistory(configured)
        self._build = build
        self._gate = gate
        self._incidents = incidents
        self.active = Generation(configured, build, gate, serves=True)
        self.other: Generation | None = None
        """In a reload: the one that is to become active, or that was so before."""

    def replicas(self) -> Iterator[Replica]:
        """All that there are, the active model's first."""
        yield from self.active.replicas
        if self.other is not None:
            yield from self.other.replicas

    # -- what is wanted ------------------------------------------------------------------------

    def start(self, snapshot: Snapshot) -> None:
        """Want the replicas of the configured model."""
        config = self.active.config
        self.active.want(number_replicas(self.id, list_wanted(config, snapshot)))

    def follow(self, snapshot: Snapshot) -> None:
        """Want the replicas that it lacks on devices that are new, where it has one on each."""
        config = self.active.config
        if config.replicas == "per-device":
            have = {replica.plan.devices for replica in self.active.replicas}
            new = [devices for devices in list_wanted(config, snapshot) if devices not in have]
            self.active.want(number_replicas(self.id, new, self._ids()))

    # -- a reload's moves ----------------------------------------------------------------------

    def plan(self, config: PoolConfig, snapshot: Snapshot) -> tuple[ReplicaPlan, ...]:
        """The replicas that a reload to ``config`` brings up, under ids that are free.

        With one on each device, a card that is out of service and has no engine now is left out,
        unless all are: it gets its replica from ``follow``.
        """
        wanted = list_wanted(config, snapshot)
        if config.replicas == "per-device":
            runs = (State.LOADING, State.READY)
            have = {r.plan.devices for r in self.active.replicas if r.state in runs}
            out = {(gpu.uuid,) for gpu in snapshot.quarantined}
            wanted = [devices for devices in wanted if devices not in out - have] or wanted
        return number_replicas(self.id, wanted, self._ids())

    def prepare(self, config: PoolConfig, plans: Sequence[ReplicaPlan]) -> Generation:
        """Bring up another generation beside the active one; it does not serve yet."""
        assert self.other is None, f"{self.id} has two generations already"
        self.other = Generation(config, self._build, self._gate, serves=False)
        self.other.want(plans)
        return self.other

    def switch(self) -> Awaitable[list[None]]:
        """The other generation serves from now on, and the active one finishes what it has; the
        answer is done once that is down."""
        assert self.other is not None, f"{self.id} has one generation only"
        # First, so that where this fails the old one serves as before.
        self.other.serve()
        leaving = self.active.retire()
        self.active, self.other = self.other, self.active
        self.models.activate(self.active.config)
        return leaving

    def forget(self) -> None:
        """The other generation is down."""
        self.other = None

    # -- how it stands -------------------------------------------------------------------------

    def status(self, reload: ReloadStatus | None, snapshot: Snapshot) -> PoolStatus:
        """How it stands now; what it lacks stands for a replica that has no device."""
        active = {replica.plan.replica_id for replica in self.active.replicas}
        statuses = [replica.status() for replica in self.replicas()]
        replicas = [replace(s, is_active=s.replica_id in active) for s in statuses]
        replicas = replicas or list(self._missing(snapshot))
        incidents = self._incidents.all()
        return PoolStatus(self.models.active, self.models.retired, reload, replicas, incidents)

    def _ids(self) -> set[str]:
        return {replica.plan.replica_id for replica in self.replicas()}

    def _missing(self, snapshot: Snapshot) -> Iterator[ReplicaStatus]:
        config = self.models.active
        if config.replicas == "per-device" and snapshot is not UNSEEN:
            complaints = allow(config.devices, snapshot).complaints
            reason = snapshot.reason or "; ".join(complaints)
            yield ReplicaStatus(
                *(f"{self.id}-0", config.model, None, State.BACKOFF, None, 0, reason, None, True)
            )

"""How a replica and a device stand, for /health and for refusals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchd.config.model import PoolConfig
from orchd.runner.incident import Incident
from orchd.runner.lifecycle import State
from orchd.runner.placement import Reservation
from orchd.runner.reload_status import ReloadStatus
from orchd.runner.snapshot import Gpu, Quarantined, Snapshot


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica as /health shows it."""

    replica_id: str
    model: str
    device: str | None
    state: State
    pid: int | None
    restarts: int
    reason: str | None
    """Why it is not ready; None when it is."""
    engine_version: str | None
    has_failed: bool = False
    """Since it was last ready, whether or not a process was ever started."""
    retry_s: float | None = None
    """When it is tried again, where it waits for that."""
    is_active: bool = True
    """False where it comes or goes with a model that is not the active one."""


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool as /health and /metrics show it."""

    config: PoolConfig
    """As it is configured, with the model that is active."""
    retired: Sequence[str]
    """Models that reloads have replaced, the newest last."""
    reload: ReloadStatus | None
    """The one under way."""
    replicas: Sequence[ReplicaStatus]
    incidents: Sequence[Incident]
    """The last deaths of its engines, the newest last."""


def explain(
    state: State, so_far_s: float, failure: str, delay_s: float, work: str = ""
) -> str | None:
    """Why a replica that is in its state for so long is not ready; None when it is.

    ``failure`` is its last one, empty before there was any, ``delay_s`` the wait that followed from
    it. While it is tried again the failure still stands: it may well be the next one. ``work``
    tells what is being done while a device is chosen, or how far its load has come.
    """
    doing = f" ({work})" if work and state in (State.PLACING, State.LOADING) else ""
    match state:
        case State.READY:
            return None
        case State.BACKOFF:
            return f"{failure}; tries again in {max(delay_s - so_far_s, 0.0):.0f} s"
        case State.STOPPING if failure:
            return failure
        case State.PLACING | State.LOADING if failure:
            return f"{state} for {so_far_s:.0f} s{doing}, after: {failure}"
        case _:
            return f"{state} for {so_far_s:.0f} s{doing}"


def decide_retry_s(replicas: Sequence[ReplicaStatus]) -> float | None:
    """When the first of them is tried again; None where one is being tried now, or none waits."""
    waits_s = [replica.retry_s for replica in replicas if replica.retry_s is not None]
    return min(waits_s) if waits_s and len(waits_s) == len(replicas) else None


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """A GPU as /health and ``orchd check`` show it; None is what the driver does not tell."""

    device: str | None
    index: int
    name: str | None
    total_bytes: int | None
    free_bytes: int | None
    reserved_bytes: int
    """What is promised to replicas."""
    utilization: int | None
    reason: str | None
    """What is wrong with it; None when nothing is."""


def describe_devices(
    snapshot: Snapshot,
    owed: Mapping[str, str],
    reservations: Sequence[Reservation] = (),
) -> tuple[DeviceStatus, ...]:
    """Every GPU in the order of the indexes; ``owed`` has by UUID what one did not give back."""

    def describe(gpu: Gpu | Quarantined) -> DeviceStatus:
        known = (gpu.uuid, gpu.index, gpu.name, gpu.total_bytes)
        reserved_bytes = sum(r.size_bytes for r in reservations if r.device == gpu.uuid)
        if isinstance(gpu, Quarantined):
            return DeviceStatus(*known, None, reserved_bytes, None, gpu.reason)
        free_bytes, reason = gpu.free_bytes, owed.get(gpu.uuid)
        return DeviceStatus(*known, free_bytes, reserved_bytes, gpu.utilization, reason)

    return tuple(describe(gpu) for gpu in snapshot.each())

"""The reservations: which replica was promised how much of which device, and what it holds of it.

A reservation lives from the decision until its process is reaped and its memory is seen to be back.
A claim keeps room for a pool's own replicas while none of them may hold it: for others it counts as
far as the pool holds less.

Invariants: between reading what is reserved and reserving more there is no await; each holding is
released once; at most one holding of a GPU is being loaded at a time, see ``turns``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from orchd.runner.allowed import CPU
from orchd.runner.placement import Reservation
from orchd.runner.snapshot import Gpu, Snapshot

MIB = 1024 * 1024
SLACK_BYTES = 64 * MIB
"""How much a desktop's own use of a GPU moves about (a guess at what is common)."""

CONTEXT_BYTES = 64 * MIB
"""A CUDA context alone takes more (100 MiB and up, as users report it)."""


@dataclass(slots=True, eq=False)
class Holding:
    """One replica's part of a device."""

    pool_id: str
    replica_id: str
    device: str
    size_bytes: int
    weights_bytes: int
    """Those of the model that go to the device."""
    total_bytes: int = 0
    """All that the device has; 0 on the CPU."""
    baseline_bytes: int = 0
    """What was in use of the device right before the load."""
    session: int | None = None
    """Its processes, from the spawn on."""
    rise_bytes: int | None = None
    """What it took, measured once it was ready, or at its exit as far as it had come."""
    others_bytes: int = 0
    """What was in use of the device beside it, when the driver last told what it held."""
    is_loading: bool = False
    """It has the device's turn: nobody else loads there."""


class Ledger:
    """All holdings of this daemon."""

    def __init__(self) -> None:
        self._holdings: list[Holding] = []
        self.claims: dict[str, Mapping[str, int]] = {}
        """By pool: bytes of each device."""

    @property
    def is_empty(self) -> bool:
        return not self._holdings and not self.claims

    def reserve(
        self, pool_id: str, replica_id: str, device: str, size_bytes: int, weights_bytes: int
    ) -> Holding:
        """From here on it counts."""
        holding = Holding(pool_id, replica_id, device, size_bytes, weights_bytes)
        self._holdings.append(holding)
        return holding

    def release(self, holding: Holding) -> None:
        self._holdings.remove(holding)

    def see(self, snapshot: Snapshot) -> None:
        """Keep what will not be told of a holding any more once its process is gone."""
        for holding in self._holdings:
            gpu = snapshot.find(holding.device)
            if gpu is not None and (told := _told(holding, gpu)) is not None:
                holding.others_bytes = gpu.used_bytes - told

    def loading_on(self, device: str) -> Holding | None:
        """Who is being loaded there."""
        return next((h for h in self._holdings if h.device == device and h.is_loading), None)

    def reservations(
        self,
        snapshot: Snapshot,
        held_by_pid: Callable[[int], int],
        *,
        for_pool: str | None = None,
        without: Holding | None = None,
    ) -> tuple[Reservation, ...]:
        """What is promised, but for one holding and the claim of the pool that asks.

        ``held_by_pid`` tells what a process has of the host's memory.
        """
        held = [
            Reservation(h.replica_id, h.device, h.size_bytes, _used(h, snapshot, held_by_pid))
            for h in self._holdings
            if h is not without
        ]
        return (*held, *self._kept(for_pool))

    def _kept(self, for_pool: str | None) -> Iterator[Reservation]:
        """What pools have a claim to and do not hold."""
        for pool_id, sizes in self.claims.items():
            if pool_id == for_pool:
                continue
            for device, size_bytes in sizes.items():
                mine = (h for h in self._holdings if (h.pool_id, h.device) == (pool_id, device))
                left_bytes = size_bytes - sum(holding.size_bytes for holding in mine)
                if left_bytes > 0:
                    yield Reservation(f"the reload of {pool_id}", device, left_bytes)


def _used(holding: Holding, snapshot: Snapshot, held_by_pid: Callable[[int], int]) -> int:
    """What it is known to hold; while that is not known, none: better to promise too little."""
    told: int | None = None
    if holding.session is not None:
        gpu = snapshot.find(holding.device)
        if holding.device == CPU:
            told = held_by_pid(holding.session)
        elif gpu is not None:
            told = _told(holding, gpu)
    return max(told or 0, holding.rise_bytes or 0)


def _told(holding: Holding, gpu: Gpu) -> int | None:
    """What the driver says that it holds."""
    return None if holding.session is None else gpu.bytes_of(holding.session)


# -- what a load took, and what an exit gives back ---------------------------------------------


@dataclass(frozen=True, slots=True)
class Rise:
    """What a replica took of its GPU."""

    size_bytes: int
    is_told: bool
    """By the driver, for this very replica; else other programs may have had a part in it."""


def measure_rise(holding: Holding, gpu: Gpu) -> Rise:
    """What the replica holds now: the driver's own figure, else the rise since the spawn."""
    told = _told(holding, gpu)
    if told is not None:
        return Rise(told, True)
    return Rise(max(gpu.used_bytes - holding.baseline_bytes, 0), False)


def is_its_own(rise: Rise, holding: Holding) -> bool:
    """False where other programs seem to have had a part in it: later loads would reserve that too.

    Whether a model can take so much at all is ``footprint``'s to judge, whenever it is recalled.
    """
    return rise.is_told or rise.size_bytes <= holding.size_bytes + holding.size_bytes // 2


def wanted_rise_bytes(holding: Holding) -> int:
    """The least rise that proves a load on the GPU.

    Half of the weights that belong there, and never nothing: whoever computes on a GPU has a
    context there; where the user has written a smaller need (some layers
    stay with the CPU on purpose), half of that.
    """
    least_bytes = max(holding.weights_bytes // 2, CONTEXT_BYTES)
    return min(holding.size_bytes // 2, least_bytes)


def note_exit(holding: Holding, gpu: Gpu, loading: Holding | None) -> int:
    """A replica is gone: the use of its device at which its memory counts as back.

    ``gpu`` is what was last seen of it, ``loading`` who is being loaded there meanwhile: what that
    one needs may come on top, and its own baseline sinks by what is given back.
    """
    if holding.is_loading:
        holding.rise_bytes = max(gpu.used_bytes - holding.baseline_bytes, 0)
        return holding.baseline_bytes + SLACK_BYTES
    rise_bytes = holding.rise_bytes or 0
    slack_bytes = max(SLACK_BYTES, rise_bytes // 10)
    if loading is not None:
        loading.baseline_bytes = max(loading.baseline_bytes - rise_bytes, 0)
        slack_bytes += loading.size_bytes
    left_bytes = max(gpu.used_bytes - rise_bytes, 0)
    if _told(holding, gpu) is None:
        # It may have been gone already when the card was read: then its own is not in that.
        left_bytes = max(left_bytes, holding.others_bytes)
    return left_bytes + slack_bytes

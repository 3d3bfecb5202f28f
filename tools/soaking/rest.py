"""A rest: nothing is thrown at the daemon any more, and everything has to be back in its place.

Invariant: a rest looks only once all that was under way has come to its end, so nothing that is
found wrong is merely late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from demo_model import say
from prometheus_client.parser import text_string_to_metric_families

from soaking import processes, reloads
from soaking.book import Invariant
from soaking.order import list_beginning_faults, list_order_faults
from soaking.pools import BY_ID, LARGE_MIB, LARGE_TAKES_MIB, NEED_MIB, POOLS, TAKES_MIB
from soaking.pulse import Beat, Pulse
from soaking.scene import Scene
from soaking.tasks import Task, list_faults
from soaking.visitors import Crowd

SETTLE_S = 100.0
"""Longer than the longest backoff and a load."""
IMPATIENT_S = 5.0
"""After so long a pool whose replicas wait for their next try is reloaded, as its owner would."""
GONE_S = 30.0
"""For clients to read what is there to its end."""
BACK_S = 15.0
"""Longer than an engine has between SIGTERM and SIGKILL."""
LOOK_S = 0.1
STEADY_S = 0.5
FILES_SLACK = 3
PROBE_PACE_S = 0.05
STALL_S = 0.05
STALLS_SHARE = 0.02
"""Of the looks at the loop, those that may have been kept waiting for longer than that: a request
may wait for more than one step."""
STALL_MAX_S = 0.5
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read at a rest."""

    at_s: float
    rss_mib: float
    files: int
    threads: int
    processes: int
    latency_ms: float
    """The median of what the loop took for /health while there was load."""


@dataclass(slots=True)
class Inspector:
    """Of one soak."""

    scene: Scene
    crowd: Crowd
    pulse: Pulse
    readings: list[Reading] = field(default_factory=list)
    _files: list[str] = field(default_factory=list)
    """What the daemon had open at the first rest."""
    _spared_pid: int | None = None
    _log_bytes: int = 0
    _heard: int = 0
    """Beats that were judged."""
    _probes: int = 0

    async def inspect(self, is_last: bool) -> None:
        """Call it when no fault is under way any more. ``is_last``: all come back by themselves."""
        health = await self._settle(is_last)
        if health is None or not await self._see_them_off():
            return
        await self._serve_one_each(health)
        await self.scene.client.let_go()
        await self._check_given_back(health)
        self._check_models(health)
        self._check_spared(health)
        self._check_tasks()
        await self._check_counts()
        self._check_log()
        latency_ms = self._check_loop()
        pid = self.scene.stand.pid
        self.readings.append(
            Reading(
                self.scene.book.so_far_s,
                processes.read_rss_mib(pid),
                len(processes.list_files(pid)),
                processes.count_threads(pid),
                len(processes.list_marked(self.scene.world.folder)),
                latency_ms,
            )
        )
        self._tell(self.readings[-1])
        self.crowd.tasks.clear()
        self.scene.beginnings.at_s.clear()

    def _tell(self, reading: Reading) -> None:
        """A line for whoever waits."""
        book = self.scene.book
        say(
            f"{reading.at_s:6.0f} s: {book.tasks.total()} tasks, {book.faults.total()} faults,"
            f" {reading.rss_mib:.0f} MiB, {reading.files} files"
        )

    # -- until all is still --------------------------------------------------------------------

    async def _settle(self, is_last: bool) -> dict[str, Any] | None:
        """How it stands once every replica is ready and idle; None, and a breach, where it never
        is."""
        book, began_s = self.scene.book, time.monotonic()
        mended: set[str] = set()
        while True:
            health = await self.scene.client.health()
            unready, busy = _list_unready(health), _list_busy(health)
            book.checks[Invariant.COMES_BACK] += 1
            if not unready and not busy:
                return health
            so_far_s = time.monotonic() - began_s
            if so_far_s > SETTLE_S:
                invariant = Invariant.COMES_BACK if unready else Invariant.OWNED
                book.breach(invariant, f"{so_far_s:.0f} s after the last fault: {unready} {busy}")
                return None
            if so_far_s > IMPATIENT_S and not is_last:
                await self._mend(health, mended)
            await asyncio.sleep(LOOK_S)

    async def _mend(self, health: Mapping[str, Any], mended: set[str]) -> None:
        for pool in health["pools"]:
            pool_id = pool["pool_id"]
            waits = any(replica["state"] == "backoff" for replica in pool["replicas"])
            if waits and BY_ID[pool_id].is_reloaded and pool_id not in mended:
                mended.add(pool_id)
                await reloads.reload(self.scene, BY_ID[pool_id], None)

    async def _see_them_off(self) -> bool:
        """Whether every client has come to its end, now that every task has."""
        try:
            await asyncio.wait_for(self.crowd.wait_until_gone(), GONE_S)
        except TimeoutError:
            tasks = self.crowd.tasks.values()
            waiting = [task.task_id for task in tasks if task.task_id and not task.story]
            text = f"clients wait, and nothing is under way: {waiting}"
            self.scene.book.breach(Invariant.ENDS_ONCE, text)
            return False
        return True

    async def _serve_one_each(self, health: Mapping[str, Any]) -> None:
        """Every pool serves a task on each of its replicas to its end, with the model that it
        says."""
        models = {pool["pool_id"]: pool["model"] for pool in health["pools"]}
        probes = []
        for pool in POOLS:
            for _ in range(pool.replicas):
                self._probes += 1
                # So slow that those of a pool overlap: each goes to the idlest.
                probes.append(Task(-self._probes, pool, "interactive", 3, "reads", PROBE_PACE_S))
        await asyncio.gather(*[self.crowd.receive(probe) for probe in probes])
        for probe in probes:
            is_kept = bool(probe.story) and probe.outcome == "end"
            about = probe.story[-1] if probe.story else "refused"
            self.scene.book.check(
                Invariant.COMES_BACK, is_kept, f"{probe.pool.pool_id} serves no task: {about}"
            )
            if is_kept:
                faults = list(list_faults(probe, [models[probe.pool.pool_id]]))
                text = f"{probe.pool.pool_id} says {models[probe.pool.pool_id]}: {faults}"
                self.scene.book.check(Invariant.RELOADS, not faults, text)

    # -- what was taken is given back ----------------------------------------------------------

    async def _check_given_back(self, health: Mapping[str, Any]) -> None:
        pid, folder = self.scene.stand.pid, self.scene.world.folder
        engines = {r["pid"] for pool in health["pools"] for r in pool["replicas"]}
        if not self._files:
            self._files = await self._wait_for_steady_files()

        def list_left() -> list[object]:
            return [p for p in processes.list_marked(folder) if p.session not in engines]

        def list_zombies() -> list[object]:
            return list(processes.list_zombies(pid))

        def list_ports() -> list[object]:
            locked = processes.count_locked_ports(pid)
            return [f"{locked} ports, {len(engines)} engines"] if locked != len(engines) else []

        def list_files() -> list[object]:
            now = processes.list_files(pid)
            if len(now) <= len(self._files) + FILES_SLACK:
                return []
            return [dict(processes.count_kinds(now) - processes.count_kinds(self._files))]

        for name, look in (
            ("processes of engines that have ended", list_left),
            ("children that are not reaped", list_zombies),
            ("ports", list_ports),
            ("open files", list_files),
        ):
            await self._wait_for_none(name, look)
        await self._check_reservations()

    async def _wait_for_none(self, name: str, look: Callable[[], list[object]]) -> None:
        deadline_s = time.monotonic() + BACK_S
        while True:
            left = look()
            if not left or time.monotonic() > deadline_s:
                break
            await asyncio.sleep(LOOK_S)
        self.scene.book.check(Invariant.OWNED, not left, f"{name} are left: {left}")

    async def _check_reservations(self) -> None:
        """On each card as much is promised as its replicas need, and no more."""
        deadline_s = time.monotonic() + BACK_S
        while True:
            health = await self.scene.client.health()
            wrong = _list_misreserved(health)
            if not wrong or time.monotonic() > deadline_s:
                break
            await asyncio.sleep(LOOK_S)
        self.scene.book.check(Invariant.OWNED, not wrong, "; ".join(wrong))

    async def _wait_for_steady_files(self) -> list[str]:
        """What is open once that does not change any more."""
        looks = [processes.list_files(self.scene.stand.pid)]
        while True:
            await asyncio.sleep(STEADY_S)
            looks.append(processes.list_files(self.scene.stand.pid))
            if len(looks[-1]) == len(looks[-2]):
                return looks[-1]

    # -- the rest ------------------------------------------------------------------------------

    def _check_models(self, health: Mapping[str, Any]) -> None:
        for pool in health["pools"]:
            pool_id = pool["pool_id"]
            if (expected := self.scene.models.get(pool_id)) is None:
                is_kept = pool["model"] in self.scene.world.models[pool_id]
                self.scene.models[pool_id] = pool["model"]
            else:
                is_kept = pool["model"] == expected
            text = f"{pool_id} has {pool['model']}, not {expected}"
            self.scene.book.check(Invariant.RELOADS, is_kept, text)

    def _check_spared(self, health: Mapping[str, Any]) -> None:
        for pool in health["pools"]:
            if BY_ID[pool["pool_id"]].is_spared:
                (replica,) = pool["replicas"]
                self._spared_pid = self._spared_pid or replica["pid"]
                is_kept = (replica["pid"], replica["restarts"]) == (self._spared_pid, 0)
                self.scene.book.check(Invariant.SPARED, is_kept, f"it was restarted: {pool}")

    def _check_tasks(self) -> None:
        self.scene.beginnings.note(self.scene.journal.read_new())
        beginnings = self.scene.beginnings.at_s
        done = {m: t for m, t in self.crowd.tasks.items() if t.story or t.admitted_s is None}
        faults = list(list_beginning_faults(done, beginnings))
        self.scene.book.check(Invariant.ENDS_ONCE, not faults, "; ".join(faults))
        ordered = [task for task in done.values() if task.pool.pool_id == "ordered" and task.story]
        faults = list(list_order_faults(ordered, beginnings))
        self.scene.book.check(Invariant.ORDER, not faults, "; ".join(faults))

    async def _check_counts(self) -> None:
        """A refused task has not been counted as admitted, nor has any been twice. Only where no
        reload takes a replica's counts away with it."""
        page = (await self.scene.client.ask("GET", "/metrics")).text
        counted: dict[str, float] = dict.fromkeys(BY_ID, 0)
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                if sample.name == "tasks_enqueued_total":
                    counted[sample.labels["pool_id"]] += sample.value
        for pool in POOLS:
            if not pool.is_reloaded:
                told, known = counted[pool.pool_id], self.crowd.admitted[pool.pool_id]
                text = f"{pool.pool_id} counts {told} admitted tasks, its clients {known}"
                self.scene.book.check(Invariant.ORDER, told == known, text)

    def _check_log(self) -> None:
        with self.scene.world.log.open("rb") as file:
            file.seek(self._log_bytes)
            new = file.read()
        self._log_bytes += len(new)
        for word in (b"Traceback", b"never retrieved", b"never awaited"):
            at = new.find(word)
            text = new[max(at - 500, 0) : at + 3000].decode(errors="replace")
            self.scene.book.check(Invariant.SPEAKS, at < 0, f"in the log: {text}")

    def _check_loop(self) -> float:
        """The median of what the loop took for one request, in ms."""
        beats: list[Beat] = self.pulse.read()[self._heard :]
        self._heard += len(beats)
        stalls = sorted(beat.own_s for beat in beats if beat.own_s > STALL_S)
        few = len(stalls) <= STALLS_SHARE * len(beats) + 1
        self.scene.book.check(Invariant.LOOP, few, f"{len(stalls)} of {len(beats)}: {stalls}")
        failed = [beat.failed for beat in beats if beat.failed]
        longest_s = max((beat.own_s for beat in beats), default=0.0)
        is_kept = longest_s <= STALL_MAX_S and not failed
        self.scene.book.check(Invariant.LOOP, is_kept, f"longest {longest_s:.3f} s; {failed}")
        return 1000 * median([beat.own_s for beat in beats] or [0.0])


def _list_unready(health: Mapping[str, Any]) -> list[str]:
    return [
        f"{replica['replica_id']} is {replica['state']}: {replica['reason']}"
        for pool in health["pools"]
        for replica in pool["replicas"]
        if replica["state"] != "ready"
    ] + [f"{pool['pool_id']}: {pool['reload']}" for pool in health["pools"] if pool["reload"]]


def _list_busy(health: Mapping[str, Any]) -> list[str]:
    return [
        f"{pool['pool_id']}: {pool['queue']} wait, {busy} slots are busy"
        for pool in health["pools"]
        for busy in [[replica["slots_busy"] for replica in pool["replicas"]]]
        if any(busy) or any(pool["queue"].values())
    ]


def _list_misreserved(health: Mapping[str, Any]) -> list[str]:
    wrong = []
    for device in health["devices"]:
        pools = [
            BY_ID[pool["pool_id"]]
            for pool in health["pools"]
            for replica in pool["replicas"]
            if replica["device"] == device["device"]
        ]
        takes = [LARGE_TAKES_MIB if pool.is_large else TAKES_MIB for pool in pools]
        least_mib = sum(LARGE_MIB if pool.is_large else NEED_MIB for pool in pools)
        # What is reckoned from a file, and what is learned, is a little more than what is taken.
        most_mib = sum(takes) + 0.5 * min(takes, default=0)
        reserved_mib = device["reserved_bytes"] / _MIB
        if not least_mib <= reserved_mib <= most_mib:
            wrong.append(f"{device['device']} has {reserved_mib:.0f} MiB promised to {takes}")
    return wrong

"""The composition root: wires the rooms together, runs them, and stops them in order.

The order of a stop: no more admission (503), running tasks finish for ``stop_grace_s``, the rest
get their terminal event, readers get their last bytes, engines are stopped. A second signal cuts
short the grace of tasks and of engines. Nothing but the command line imports this module.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache

import uvloop

from orchd.api import wire
from orchd.api.context import Context, Meters
from orchd.api.door import Door
from orchd.api.refused_logins import RefusedLogins
from orchd.config.listen import warn_of_exposure
from orchd.config.model import Config
from orchd.config.token import Token
from orchd.descriptors import ensure_descriptors, fill_standard_descriptors
from orchd.engines.registry import ADAPTERS
from orchd.http1.limits import limits_from
from orchd.http1.server import HttpServer
from orchd.metrics.collector import Collector
from orchd.metrics.cpu_watch import CpuWatch
from orchd.metrics.registry import Registry
from orchd.runner.allowed import CPU
from orchd.runner.guard import STOP_TIMEOUT_S, Guard, engines_folder
from orchd.runner.learned import Learned, footprints_file
from orchd.runner.process_tree import list_tree
from orchd.runner.reckoner import Reckoner
from orchd.runner.restart import Timing
from orchd.runner.snapshot import NoReading, Reading
from orchd.runner.supervisor import Supervisor
from orchd.runner.trust import Trust
from orchd.serving.service import Service
from orchd.serving.world import Outage, Runner
from orchd.systemd.herald import Herald
from orchd.systemd.notifier import Notifier
from orchd.systemd.standing import describe

log = logging.getLogger("orchd")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_NEW_OBJECTS_MAX = 10_000

_CONNECTION_GRACE_S = 2.0
"""How long readers may take to fetch the last bytes of their streams."""

# The guardian can be waited for twice: the first one, and one that makes up for it.
STOP_S = _CONNECTION_GRACE_S + Timing().stop_grace_s + Timing().kill_timeout_s + 2 * STOP_TIMEOUT_S
"""How long a stop takes at most once the tasks have had their grace."""


def serve(config: Config, token: Token) -> None:
    """Run the daemon until it is told to stop. Raises HostError where it cannot listen."""
    fill_standard_descriptors()
    # Whatever aborts this process, systemd's watchdog for one, has it say where it stood.
    faulthandler.enable(2)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stop, hurry = _catch_signals(runner.get_loop())
        learned = Learned(footprints_file(os.environ))
        ensure_descriptors(config)
        try:
            runner.run(_run(config, token, learned, stop, hurry))
        finally:
            # From here on a signal is too late; its default action would spoil the exit code.
            for number in _STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)


@dataclass(frozen=True, slots=True)
class _House:
    """What is started and stopped."""

    service: Service
    supervisor: Supervisor
    guard: Guard
    cpu_watch: CpuWatch
    logins: RefusedLogins
    server: HttpServer


def _build(config: Config, token: Token, learned: Learned) -> _House:
    """Wire the rooms together; nothing runs yet."""
    runner = Runner(
        explain=lambda pool_id: Outage(supervisor.explain(pool_id), supervisor.retry_s(pool_id)),
        spare_vram_bytes=lambda replica_id: supervisor.spare_vram_bytes(replica_id),
        config=lambda pool_id: supervisor.config(pool_id),
        report_stuck=lambda *report: supervisor.report_stuck(*report),
    )
    registry = Registry(
        (pool.engine for pool in config.pools),
        lambda pool_id: {replica.replica_id for replica in supervisor.statuses(pool_id)},
    )
    service = Service(config, ADAPTERS, wire.encode_event, runner, tally=registry)
    guard = Guard(engines_folder(os.environ))
    reckoner = Reckoner(ADAPTERS, learned, trust=Trust())
    supervisor: Supervisor = Supervisor(
        config, ADAPTERS, service, _read_gpus, reckoner, guard=guard
    )
    cpu_watch = CpuWatch(lambda: _list_pids_on_cpu(config, supervisor), list_tree)
    context = Context(
        *(service, supervisor.pools, supervisor.devices, lambda: supervisor.snapshot.reason),
        Meters(
            *(registry, Collector(registry)),
            *(lambda device: supervisor.snapshot.find(device), cpu_watch.use_of),
        ),
        supervisor.reload,
    )
    logins = RefusedLogins(asyncio.get_running_loop())
    door = Door(context, token.value, logins.note)
    server = HttpServer(door, limits_from(config.server))
    return _House(service, supervisor, guard, cpu_watch, logins, server)


def _read_gpus() -> Reading | NoReading:
    """For a thread, one at a time."""
    return _load_nvml()()


@cache
def _load_nvml() -> Callable[[], Reading | NoReading]:
    """NVIDIA's module takes a tenth of a start to load (measured): not before the door is open."""
    from orchd.runner.nvml import NvmlReader

    return NvmlReader().read


async def _run(
    config: Config, token: Token, learned: Learned, stop: asyncio.Event, hurry: asyncio.Event
) -> None:
    house = _build(config, token, learned)
    # What is loaded and built by now stays: a search for garbage that looks through all of it holds
    # up the loop for tens of milliseconds. Tasks leave no circles behind (tests hold them to it),
    # so that a search can wait for more than the 700 new objects that are usual.
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS_MAX)
    listen = await house.server.start(config.server.listen)
    _log_start(config, token, str(listen))
    herald = _make_herald(house.supervisor)
    herald.start()
    house.guard.start()
    await _until(stop, house.supervisor.start())
    house.cpu_watch.start()
    await stop.wait()

    grace_s = config.server.stop_grace_s
    log.info("stopping: running tasks have %g s to finish, a second signal hurries", grace_s)
    herald.announce_stop(f"stopping: running tasks have {grace_s:g} s to finish", grace_s + STOP_S)
    service, supervisor = house.service, house.supervisor
    service.stop_admission()
    await supervisor.stop_reloads()
    await _until(hurry, service.finish_tasks(grace_s))
    await service.end_tasks()
    await house.server.stop(_CONNECTION_GRACE_S)
    house.logins.close()
    herald.tell("stopping: the engines are being stopped")
    stopping = asyncio.create_task(supervisor.stop(), name="stop replicas")
    await _until(hurry, asyncio.shield(stopping))
    supervisor.hurry()
    await stopping
    house.cpu_watch.stop()
    await house.guard.stop()
    await learned.close()
    herald.close()
    log.info("stopped")


def _make_herald(supervisor: Supervisor) -> Herald:
    notifier = Notifier(os.environ)
    return Herald(asyncio.get_running_loop(), notifier, lambda: describe(supervisor.pools()))


def _list_pids_on_cpu(config: Config, supervisor: Supervisor) -> list[int]:
    statuses = (status for pool in config.pools for status in supervisor.statuses(pool.id))
    return [s.pid for s in statuses if s.device == CPU and s.pid is not None]


def _catch_signals(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.Event, asyncio.Event]:
    """Two events: the first signal sets ``stop``, any further one ``hurry``.

    Not by the loop's own handlers: to take them away brings the default action back for a moment,
    in which a further signal would kill a daemon that has just stopped well.
    """
    stop, hurry = asyncio.Event(), asyncio.Event()

    def tell() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(tell))
    return stop, hurry


async def _until(signalled: asyncio.Event, work: Awaitable[None]) -> None:
    """Do the work; cancel it at the signal. Raises what the work raises."""
    working = asyncio.ensure_future(work)
    waiting = asyncio.create_task(signalled.wait(), name="wait for a signal")
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working.done():
        working.result()
    working.cancel()


def _log_start(config: Config, token: Token, address: str) -> None:
    log.info("listening on %s", address)
    if (warning := warn_of_exposure(config.server.listen, address)) is not None:
        log.warning("%s", warning)
    made = "made a new token, kept in" if token.is_new else "the token is that of"
    log.info("%s %s", made, token.origin)
    if token.warning is not None:
        log.warning("%s", token.warning)
    for pool in config.pools:
        for risk in ADAPTERS[pool.engine].find_risks(pool):
            log.warning("is at risk pool=%s: %s", pool.id, risk)

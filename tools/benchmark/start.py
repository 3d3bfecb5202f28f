"""How long a daemon takes from its start as a process until it accepts connections."""

from __future__ import annotations

import time
from statistics import median

from daemon_child import DaemonChild
from loopback import find_free_port

from benchmark.fake_engine import await_port, describe_pool
from benchmark.ground import Found, Ground, daemon_environment, serve_command, write_configuration
from benchmark.kernel import read_cpu_ns

_LOOK_INTERVAL_S = 0.001


def measure_start(ground: Ground) -> Found:
    """The first start, which reads its files from the disk, is not counted."""
    setup = describe_pool(ground)
    environ, log = daemon_environment(ground.folder), ground.folder / "daemon.log"
    spans_ms, cpus_ms = [], []
    for _ in range(ground.scale.starts + 1):
        port = find_free_port()
        command = serve_command(write_configuration(ground.folder, setup, port))
        begun_s = time.monotonic()
        # The tether is a Python too, whose own start would count.
        with DaemonChild(command, log, environ=environ, is_tethered=False) as child:
            await_port(child, port, _LOOK_INTERVAL_S)
            spans_ms.append((time.monotonic() - begun_s) * 1000)
            cpus_ms.append(read_cpu_ns(child.pid) / 1e6)
    raw = {"ready_ms_least": min(spans_ms[1:]), "ready_cpu_ms": median(cpus_ms[1:])}
    return Found({"ready_ms": median(spans_ms[1:])}, raw)

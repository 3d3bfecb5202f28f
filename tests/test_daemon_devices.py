"""The real daemon on workstations of the fake NVML: placement, loss, lag, and a driver that hangs.

Each test tells one machine's story to its end, for a daemon takes its time to come up.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemon import TIMEOUT_S, RunningDaemon, run_daemon
from tests.fakes.engines import install_engine, write_model
from tests.fakes.nvml import FakeNvml, build_nvml, card, uuid_of

GIB = 1 << 30


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


def write_pools(folder: Path, nvml: FakeNvml, *pools: str, **faults: object) -> Path:
    """A configuration of pools on the fake engine, each with further keys as TOML lines."""
    told = nvml.engine_faults(9000) | faults
    env = ", ".join(f'FAKE_{name.upper()} = "{value}"' for name, value in told.items())
    config = folder / "orchd.toml"
    model, binary = write_model(folder, 4000), install_engine(folder)
    config.write_text('[server]\nlisten = "127.0.0.1:0"\n')
    with config.open("a") as file:
        for n, pool in enumerate(pools):
            file.write(
                f'[[pools]]\nid = "pool{n}"\nengine = "llamacpp"\nmodel = "{model}"\n'
                f'binary = "{binary}"\nenv = {{ {env} }}\nslots = 1\n{pool}\n'
            )
    return config


def health(daemon: RunningDaemon) -> dict[str, Any]:
    return dict(json.load(daemon.ask("GET", "/health")))


def wait_until(daemon: RunningDaemon, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask for the health until it is so; returns it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so(told := health(daemon)):
        assert time.monotonic() < deadline_s, f"it never came to be so: {told}"
        time.sleep(0.05)
    return told


def replicas_of(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [replica for pool in told["pools"] for replica in pool["replicas"]]


def ready_on(told: dict[str, Any]) -> list[str]:
    """The devices of the replicas that are ready."""
    return sorted(r["device"] for r in replicas_of(told) if r["state"] == "ready")


def test_replicas_spread_over_the_cards_and_leave_one_that_is_lost(
    tmp_path: Path, library: Path
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 16), card(1, 24, used_mib=2048, utilization=7)])
    first, second = uuid_of(0), uuid_of(1)
    config = write_pools(tmp_path, nvml, "replicas = 2\nvram_mib = 10000")
    with run_daemon(config, **nvml.environment(library)) as daemon:
        started = daemon.hear("started an engine")
        assert f"device={second}" in started, "the one with the most free comes first"
        told = wait_until(daemon, lambda told: ready_on(told) == [first, second])
        assert (told["status"], told["devices_reason"]) == ("ok", None)
        free = 24 * GIB - (2048 + 9000) * (1 << 20)
        told = wait_until(daemon, lambda told: told["devices"][1]["free_bytes"] == free)
        assert told["devices"][1] == {
            "device": second,
            "index": 1,
            "name": "NVIDIA Card",
            "total_bytes": 24 * GIB,
            "free_bytes": free,
            "reserved_bytes": 10_000 * (1 << 20),
            "utilization": 7,
            "reason": None,
        }

        nvml.change(0, handle_code=15)
        told = wait_until(daemon, lambda told: ready_on(told) == [second, second])
        assert told["devices"][0]["device"] == first
        assert told["devices"][0]["reason"] == "has fallen off the bus"
        assert "its device" in daemon.hear("lost an engine")
        nvml.change(0, handle_code=0)
        wait_until(daemon, lambda told: told["devices"][0]["reason"] is None)
        daemon.hear("took GPU 0 back into use")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log


def test_a_pool_waits_for_room_and_for_memory_to_come_back(tmp_path: Path, library: Path) -> None:
    """One card: first a neighbour fills it, then the engine loads, then it crashes."""
    nvml = FakeNvml(tmp_path / "machine", [card(0, 24, used_mib=20000)])
    # The lag is longer than the two seconds after which a second failure is tried again.
    config = write_pools(tmp_path, nvml, "vram_mib = 16000", vram_lag_ms=3000)
    with run_daemon(config, **nvml.environment(library)) as daemon:
        told = wait_until(daemon, lambda told: bool(replicas_of(told)[0]["reason"]))
        told = wait_until(daemon, lambda told: replicas_of(told)[0]["state"] == "backoff")
        assert told["status"] == "unavailable"
        assert (
            "GPU 0 (NVIDIA Card) has 4.5 GiB available of 24.0 GiB"
            in (replicas_of(told)[0]["reason"])
        )
        refused = daemon.ask("POST", "/v1/tasks", {"prompt": "hello"})
        assert refused.status == 503
        assert "needs 15.6 GiB" in json.load(refused)["message"]

        nvml.change(0, used_mib=500)
        told = wait_until(daemon, lambda told: ready_on(told) == [uuid_of(0)])
        (replica,) = replicas_of(told)

        os.kill(replica["pid"], signal.SIGKILL)
        wait_until(
            daemon,
            lambda told: (
                ready_on(told) == [uuid_of(0)] and replicas_of(told)[0]["pid"] != replica["pid"]
            ),
        )
        # 14.7 GiB are free while the driver holds the memory of the one that is gone.
        crash = daemon.log.rpartition("was ended by SIGKILL")[2]
        assert "needs" not in crash, crash


def test_tokens_keep_coming_while_the_driver_hangs(tmp_path: Path, library: Path) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 24)])
    config = write_pools(tmp_path, nvml, "vram_mib = 10000")
    with run_daemon(config, **nvml.environment(library)) as daemon:
        wait_until(daemon, lambda told: ready_on(told) == [uuid_of(0)])
        stream = daemon.submit("[tokens 1000] [every 0.02]")
        assert stream.readline().startswith(b"id: 0")
        nvml.write(hang=1)
        tokens, told = 0, health(daemon)
        while told["devices_reason"] is None:
            line = stream.readline()
            assert line, "the stream ended"
            tokens += line.startswith(b"event: token")
            if tokens % 10 == 0:
                told = health(daemon)
        expected = "the NVIDIA driver did not answer for 5 s"
        assert (told["devices_reason"], told["status"]) == (expected, "ok")
        assert (told["devices"][0]["reason"], told["devices"][0]["free_bytes"]) == (expected, None)
        # Five seconds, fifty a second; a machine that is slow makes fewer.
        assert tokens > 50
        nvml.write(hang=0)
        wait_until(daemon, lambda told: told["devices_reason"] is None)
        assert stream.readline()
        assert ready_on(health(daemon)) == [uuid_of(0)]
        assert daemon.log.count("cannot see any GPU") == 1


def test_without_a_driver_a_pool_waits_and_says_so_and_one_on_the_cpu_serves(
    tmp_path: Path, library: Path
) -> None:
    """And once the driver is there, an engine that does not use its card is found out."""
    nvml = FakeNvml(tmp_path / "machine", [card(0, 24)], settings={"init": 9})
    pools = ("", 'devices = ["cpu"]', 'replicas = "per-device"')
    config = write_pools(tmp_path, nvml, *pools, cpu_once=tmp_path / "once")
    reason = (
        "the NVIDIA driver is installed but not loaded; modprobe nvidia, as root, loads it or says"
        " why not"
    )
    with run_daemon(config, **nvml.environment(library)) as daemon:
        told = wait_until(
            daemon,
            lambda told: [r["state"] for r in replicas_of(told)] == ["backoff", "ready", "backoff"],
        )
        assert (told["status"], told["devices"]) == ("degraded", [])
        assert told["devices_reason"] == reason
        assert reason in replicas_of(told)[0]["reason"]
        assert replicas_of(told)[2]["reason"] == reason
        assert daemon.log.count("cannot see any GPU") == 1

        nvml.write(init=0)
        daemon.hear(f"loaded on the CPU instead of {uuid_of(0)}: its memory rose by 0.0 GiB of")
        told = wait_until(daemon, lambda told: told["status"] == "ok")
        assert ready_on(told) == [uuid_of(0), uuid_of(0), "cpu"]

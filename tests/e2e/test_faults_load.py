"""Every way in which an engine can fail to load, or be slow at it, on the real daemon.

Each fault has a pool of its own, and its second load goes well. All of them fail at once as the
daemon starts, and are held at their second load until their test has seen how they stand; so the
tests may run in any order, and wait for nothing but their own pool.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.e2e.pool_plan import STALL_S, PoolPlan
from tests.e2e.ward import Ward, open_ward
from tests.fakes.daemon import TIMEOUT_S
from tests.fakes.llama_faults import MIB, Faults
from tests.fakes.llama_server import Server, parse_options

IMPATIENT = f"load_stall_s = {STALL_S}"


@dataclass(frozen=True)
class BadLoad:
    """A fault at the first load."""

    pool_id: str
    faults: dict[str, object]
    cause: str
    exit_code: int | None = None
    by: str | None = "SIGTERM"
    last_line: str = ""


@dataclass(frozen=True)
class SlowLoad:
    """A load that takes longer than it may be silent, and shows progress."""

    pool_id: str
    faults: dict[str, object] = field(default_factory=dict)


STALLED = f"made no progress at loading for {STALL_S} s"
BAD_LOADS = [
    BadLoad(
        "exits",
        {"exit_at_load": "error: out of luck"},
        "exited with code 1: error: out of luck",
        exit_code=1,
        by=None,
        last_line="error: out of luck",
    ),
    BadLoad(
        "crashes",
        {"crash_at_load": int(signal.SIGSEGV)},
        "was ended by SIGSEGV: it said nothing",
        by="SIGSEGV",
    ),
    BadLoad(
        "aborts",
        {"exit_unended": "error: half a li"},
        "was ended by SIGABRT: error: half a li",
        by="SIGABRT",
        last_line="error: half a li",
    ),
    BadLoad("stalls", {"load_s": 600}, STALLED),
    BadLoad("never-binds", {"never_binds": 1}, STALLED),
    BadLoad("restless", {"load_s": 600, "restless": 1}, STALLED),
    BadLoad("any-key", {"any_key": 1}, "answered HTTP 200 to a key that is not its own"),
    BadLoad("other-key", {"key": "another"}, "answered HTTP 401 when asked who it is"),
    BadLoad("other-model", {"model": "/other"}, "answers for another model, /other"),
]
SLOW_LOADS = [
    SlowLoad("talkative", {"load_s": 2.5 * STALL_S, "load_lines": 40}),
    SlowLoad("growing", {"load_s": 2.5 * STALL_S, "load_mib": 60}),
    SlowLoad("flooding-lines", {"flood_at_load_bytes": 20 * MIB, "flood_of": "lines"}),
    SlowLoad("flooding-unended", {"flood_at_load_bytes": 20 * MIB, "flood_of": "unended"}),
    SlowLoad("flooding-binary", {"flood_at_load_bytes": 20 * MIB, "flood_of": "binary"}),
]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where engines whose port is taken from them say which it is."""
    return tmp_path_factory.mktemp("ports")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory, ports: Path) -> Iterator[Ward]:
    marks = tmp_path_factory.mktemp("marks")
    pools = [PoolPlan(bad.pool_id, bad.faults, IMPATIENT) for bad in BAD_LOADS]
    pools.append(PoolPlan("stolen", {"hold_port": ports / "stolen"}))
    posing = {"hold_port": ports / "posed-as", "never_binds": 1}
    pools.append(PoolPlan("posed-as", posing))
    held = [pool.pool_id for pool in pools]
    pools = [
        replace(pool, faults={**pool.faults, "first_load_only": marks / pool.pool_id})
        for pool in pools
    ]
    pools += [PoolPlan(slow.pool_id, slow.faults, IMPATIENT) for slow in SLOW_LOADS]
    with open_ward(tmp_path_factory.mktemp("ward"), pools, held=held) as ward:
        yield ward


def check_mended(ward: Ward, pool_id: str, cause: str) -> None:
    """Held at its second load, the pool tells of the first; then it serves as any other."""
    replica = ward.wait_for(pool_id, lambda r: r["state"] == "loading" and r["restarts"] == 1)
    assert replica["reason"].startswith("loading for ")
    assert cause in replica["reason"]
    with ward.ask("POST", "/v1/tasks", {"pool_id": pool_id, "prompt": "hello"}) as refused:
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert cause in refused.read().decode()
    (incident,) = ward.wait_for_incidents(pool_id, 1)
    assert cause in incident["cause"]
    assert (incident["ready_s"], incident["tasks"]) == (0, [])
    ward.check_gone(incident["pid"])
    ward.let_load(pool_id)
    replica = ward.wait_until_ready(pool_id)
    assert (replica["restarts"], replica["reason"]) == (1, None)
    assert replica["pid"] != incident["pid"]
    ward.check_task(pool_id)


@pytest.mark.parametrize("bad", BAD_LOADS, ids=lambda bad: str(bad.pool_id))
def test_a_bad_load_is_told_and_tried_again(ward: Ward, bad: BadLoad) -> None:
    check_mended(ward, bad.pool_id, bad.cause)
    (incident,) = ward.pool(bad.pool_id)["incidents"]
    assert (incident["exit_code"], incident["signal"]) == (bad.exit_code, bad.by)
    assert bad.last_line in "\n".join(incident["last_lines"])
    ward.daemon.hear(f"lost an engine pool={bad.pool_id}")


@pytest.mark.parametrize("slow", SLOW_LOADS, ids=lambda slow: str(slow.pool_id))
def test_a_slow_load_that_makes_progress_is_waited_for(ward: Ward, slow: SlowLoad) -> None:
    replica = ward.wait_until_ready(slow.pool_id)
    assert replica["restarts"] == 0
    assert ward.pool(slow.pool_id)["incidents"] == []
    ward.check_task(slow.pool_id)


def test_an_engine_whose_port_is_taken_gets_another(ward: Ward, ports: Path) -> None:
    port = wait_for_port(ports / "stolen")
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        (ports / "stolen").unlink()
        ward.wait_for("stolen", lambda r: r["restarts"] == 1)
        assert ward.port(ward.replica("stolen")["pid"]) != port
    check_mended(ward, "stolen", "exited with code 1: error: couldn't bind HTTP server socket")


def test_whoever_answers_in_the_place_of_an_engine_is_found_out(ward: Ward, ports: Path) -> None:
    port = wait_for_port(ports / "posed-as")
    with impostor(ward, port):
        (ports / "posed-as").unlink()
        ward.wait_for("posed-as", lambda r: r["restarts"] == 1)
    cause = f"does not listen on its port {port}: another program does"
    check_mended(ward, "posed-as", cause)


def wait_for_port(path: Path) -> int:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not path.exists():
        assert time.monotonic() < deadline_s, "the engine never came to its port"
        time.sleep(0.02)
    return int(path.read_text())


@contextlib.contextmanager
def impostor(ward: Ward, port: int) -> Iterator[None]:
    """Our engine's double on its port, which takes every key."""
    model = ward.pool("posed-as")["model"]
    options = parse_options(["-m", model, "--host", "127.0.0.1", "--port", str(port)])
    with Server(options, Faults(any_key=1), "no key", threading.Event()) as server:
        server.has_loaded = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_after_all_that_the_daemon_holds_nothing_of_those_that_are_gone(ward: Ward) -> None:
    bad, slow = [load.pool_id for load in BAD_LOADS], [load.pool_id for load in SLOW_LOADS]
    for pool_id in (*bad, *slow):
        ward.let_load(pool_id)
        ward.wait_until_ready(pool_id)
    ward.wait_for_no_dead_ends()

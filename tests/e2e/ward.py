"""A daemon with many small pools, one for each fault, and what must hold after every one of them.

Each pool has an engine of its own, and some a GPU of their own, so that a failure's backoff, its
reservation and its incidents are that fault's alone. A pool's engine can be kept from loading again
for as long as the test looks at what /health says meanwhile.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.contracts.documents import validator
from tests.contracts.seen import SeenConnection
from tests.e2e.pool_plan import NEED_MIB, PoolPlan, write_pools
from tests.e2e.story import Story, read_story
from tests.fakes.daemon import TIMEOUT_S, TOKEN, RunningDaemon, run_daemon
from tests.fakes.engines import list_children, list_session
from tests.fakes.nvml import MIB, FakeNvml, card

HEALTH = validator("control.yaml", "Health")
QUIET = 10
"""After so many readings without a change a figure counts as settled."""


class Ward:
    """The daemon under fault. ``holds`` has a file for each pool whose engine may not load, and the
    gates of prompts."""

    def __init__(
        self, daemon: RunningDaemon, holds: Path, pools: Sequence[PoolPlan], nvml: FakeNvml | None
    ) -> None:
        self.daemon = daemon
        self.nvml = nvml
        self.holds = holds
        self._cards = {pool.pool_id: pool.card for pool in pools}
        self.descriptors = 0
        """How many files the daemon has open while nothing goes on."""

    # -- asking --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def ask(
        self, method: str, path: str, body: object = None
    ) -> Iterator[http.client.HTTPResponse]:
        """One request on a connection that is closed after it."""
        connection = SeenConnection("127.0.0.1", self.daemon.port, timeout=TIMEOUT_S)
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            with connection.getresponse() as answer:
                yield answer

    def submit(self, pool_id: str, prompt: str, **more: object) -> str:
        """Its id."""
        task = {"pool_id": pool_id, "prompt": prompt, "max_tokens": 1000, **more}
        with self.ask("POST", "/v1/tasks", task) as answer:
            told = json.load(answer)
            assert answer.status == 202, told
            return str(told["task_id"])

    def stream(self, task_id: str) -> contextlib.AbstractContextManager[http.client.HTTPResponse]:
        """Its events as they come."""
        return self.ask("GET", f"/v1/tasks/{task_id}/stream")

    def read(self, task_id: str) -> Story:
        """Its events to its end."""
        with self.stream(task_id) as stream:
            return read_story(stream)

    def run(self, pool_id: str, prompt: str, **more: object) -> Story:
        return self.read(self.submit(pool_id, prompt, **more))

    def health(self) -> dict[str, Any]:
        """Whatever is going on, it is as the contract says."""
        with self.ask("GET", "/health") as answer:
            told = dict(json.load(answer))
        HEALTH.validate(told)
        return told

    def pool(self, pool_id: str) -> dict[str, Any]:
        return next(dict(p) for p in self.health()["pools"] if p["pool_id"] == pool_id)

    def replica(self, pool_id: str) -> dict[str, Any]:
        (replica,) = self.pool(pool_id)["replicas"]
        return dict(replica)

    def wait_for(self, pool_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Ask for the replica of the pool until it is so; returns it."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while not is_so(replica := self.replica(pool_id)):
            assert time.monotonic() < deadline_s, f"it never came to be so: {replica}"
            time.sleep(0.02)
        return replica

    def wait_until_ready(self, pool_id: str, restarts: int | None = None) -> dict[str, Any]:
        return self.wait_for(
            pool_id,
            lambda r: r["state"] == "ready" and (restarts is None or r["restarts"] >= restarts),
        )

    def wait_for_incidents(self, pool_id: str, count: int) -> list[dict[str, Any]]:
        """Wait until the pool has had so many, and all memory is seen to be back; returns them."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            pool = self.pool(pool_id)
            incidents = [dict(incident) for incident in pool["incidents"]]
            on_gpu = self._cards[pool_id] is not None
            is_told = all(i["memory_after_bytes"] is not None or not on_gpu for i in incidents)
            if len(incidents) == count and is_told:
                return incidents
            assert time.monotonic() < deadline_s, f"it never came to {count}: {incidents}"
            time.sleep(0.02)

    def reserved_bytes(self, pool_id: str) -> int:
        """What is promised on the pool's own GPU."""
        place = self._cards[pool_id]
        assert place is not None
        return int(self.health()["devices"][place]["reserved_bytes"])

    # -- a fault -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def keep_from_loading(self, pool_id: str) -> Iterator[None]:
        """The pool's next engine loads for as long as this lasts."""
        hold = self.holds / pool_id
        hold.touch()
        try:
            yield
        finally:
            self.let_load(pool_id)

    def let_load(self, pool_id: str) -> None:
        """Do not keep it any longer."""
        (self.holds / pool_id).unlink(missing_ok=True)

    def port(self, pid: int) -> int:
        """Of the engine with that pid."""
        return int(self.line_of(pid).rpartition("port=")[2].split()[0])

    def line_of(self, pid: int) -> str:
        """Of the log, which tells of the start of that engine."""
        lines = [line for line in self.daemon.log.splitlines() if "started an engine" in line]
        return next(line for line in lines if f" pid={pid} " in line)

    def sessions(self) -> list[int]:
        """Every engine's that was started."""
        lines = [line for line in self.daemon.log.splitlines() if "started an engine" in line]
        return [int(line.partition(" pid=")[2].split()[0]) for line in lines]

    # -- afterwards ----------------------------------------------------------------------------

    def check_gone(self, pid: int) -> None:
        """No process is left of an engine's session, and its port is anybody's."""
        assert list_session(pid) == []
        port = self.port(pid)
        deadline_s = time.monotonic() + TIMEOUT_S
        while not self._is_given_back(port, pid):
            assert time.monotonic() < deadline_s, f"port {port} is held, and by no later engine"
            time.sleep(0.02)

    def _is_given_back(self, port: int, pid: int) -> bool:
        """Whether anybody may have it, or a later engine has. Ports are drawn from a thousand, so
        now and then one is drawn again at once, by this daemon or another that runs meanwhile."""
        later = self.daemon.log.partition(f" pid={pid} port={port}\n")[2]
        if re.search(rf"started an engine .* port={port}$", later, re.MULTILINE):
            return True
        holders = find_lock(port)
        own = {link for _, link in _links(Path(f"/proc/{self.daemon.process.pid}"))}
        return not holders & own and (bool(holders) or can_bind(port))

    def check_task(self, pool_id: str) -> None:
        """A new task ends well, and nobody has a slot."""
        story = self.run(pool_id, "[tokens 3]")
        assert story.names[-1] == "end", story
        assert story.text == "t0 t1 t2 "
        self.wait_for(pool_id, lambda r: r["slots_busy"] == 0)

    def check_well(self, pool_id: str) -> None:
        """The same, and nothing is held that was not before."""
        self.check_task(pool_id)
        if self._cards[pool_id] is not None:
            assert self.reserved_bytes(pool_id) == NEED_MIB * MIB
        self.wait_for_descriptors()

    def count_descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.daemon.process.pid}/fd").iterdir()))

    def wait_for_no_dead_ends(self) -> None:
        """Until the daemon has no pipe open that nobody else has, and watches no process that is
        gone."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while dead := self._list_dead_ends():
            assert time.monotonic() < deadline_s, f"of no use to anybody: {dead}"
            time.sleep(0.02)

    def _list_dead_ends(self) -> list[str]:
        daemon = Path(f"/proc/{self.daemon.process.pid}")
        ends = Counter(link for proc in Path("/proc").glob("[0-9]*") for _, link in _links(proc))
        dead = []
        for name, link in _links(daemon):
            if link.startswith("pipe:") and ends[link] == 1:
                dead.append(link)
            if link == "anon_inode:[pidfd]":
                with contextlib.suppress(FileNotFoundError):
                    dead += re.findall("^Pid:\t-1$", (daemon / "fdinfo" / name).read_text(), re.M)
        return dead

    def note_descriptors(self) -> None:
        """Take what is open now for all that may be; a connection just closed takes a moment."""
        counts: list[int] = []
        while len(counts) < QUIET or len(set(counts[-QUIET:])) > 1:
            counts.append(self.count_descriptors())
            time.sleep(0.02)
        self.descriptors = counts[-1]

    def wait_for_descriptors(self) -> None:
        """Until no more files are open than there were."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while (now := self.count_descriptors()) > self.descriptors:
            assert time.monotonic() < deadline_s, f"{now} files are open, not {self.descriptors}"
            time.sleep(0.02)


def find_lock(port: int) -> set[str]:
    """The socket that a daemon locks it with, as descriptors name it; none where none does."""
    rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    return {f"socket:[{row[6]}]" for row in rows if row[-3:] == ["@orchd", "port", str(port)]}


def can_bind(port: int) -> bool:
    """Whether nobody listens there; connections that linger do not matter."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _links(proc: Path) -> list[tuple[str, str]]:
    """What a process has open: number and name."""
    links = []
    with contextlib.suppress(OSError):
        for entry in (proc / "fd").iterdir():
            with contextlib.suppress(OSError):
                links.append((entry.name, str(entry.readlink())))
    return links


@contextlib.contextmanager
def open_ward(
    folder: Path,
    pools: Sequence[PoolPlan],
    library: Path | None = None,
    held: Sequence[str] = (),
    *,
    card_gib: int = 2,
    ends_well: bool = True,
) -> Iterator[Ward]:
    """Start it, with some pools kept from loading. At the end it is stopped, if it is to end well,
    and then nothing may be left of it."""
    holds = folder / "holds"
    holds.mkdir(parents=True)
    for pool_id in held:
        (holds / pool_id).touch()
    cards = [pool.card for pool in pools if pool.card is not None]
    nvml, environment = None, {}
    if library is not None:
        nvml = FakeNvml(folder / "machine", [card(n, card_gib) for n in range(max(cards) + 1)])
        environment = nvml.environment(library)
    config = write_pools(folder, holds, nvml, pools)
    with run_daemon(config, **environment) as daemon:
        ward = Ward(daemon, holds, pools, nvml)
        yield ward
        if not ends_well:
            return
        others = list_children(daemon.process.pid)
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        sessions = [*ward.sessions(), *others]
        assert [pid for session in sessions for pid in list_session(session)] == []
        assert [pid for pid in others if Path(f"/proc/{pid}").exists()] == []
        assert "Traceback" not in daemon.log
        assert "never retrieved" not in daemon.log

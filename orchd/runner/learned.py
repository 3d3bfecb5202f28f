"""Remembers across restarts what replicas were measured to need: one file in the state directory.

What is remembered counts at once; the file follows, written whole beside the old one and then put
in its place, by a thread that nobody waits for. A file that cannot be read or written costs one
warning and no more: footprints are reckoned then. Of two daemons on one state directory the one
that writes last wins, and the other learns again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from orchd.config.places import state_dir
from orchd.errors import HostError
from orchd.runner.remembered import (
    FootprintKey,
    UnreadableError,
    add_entry,
    is_measurable,
    read_entries,
    write_entries,
)
from orchd.runner.slow_call import SlowCall

log = logging.getLogger(__name__)

FILE_NAME = "footprints.json"
_FILE_BYTES_MAX = 1 << 22
_WRITE_TIMEOUT_S = 10.0


def footprints_file(environ: Mapping[str, str]) -> Path | None:
    """Where they are kept; None, and a warning, where there is no folder for it."""
    try:
        return state_dir(environ) / FILE_NAME
    except HostError as error:
        log.warning("footprints are not kept: %s", error)
        return None


class Learned:
    """Measured footprints by what they depend on.

    Constructing it reads the file, so that is done before there is a loop to hold up. Without a
    path nothing outlives the daemon.
    """

    def __init__(self, path: Path | None, write_timeout_s: float = _WRITE_TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = write_timeout_s
        self._entries = {} if path is None else _read(path)
        self._is_written = True
        self._has_warned = False
        self._writing: asyncio.Task[None] | None = None

    def recall(self, key: FootprintKey) -> int | None:
        """What was measured for it; None where nothing was."""
        return self._entries.get(key)

    def remember(self, key: FootprintKey, need_bytes: int) -> None:
        """Keep a measurement and have it written; one that no load can have is not taken."""
        if not is_measurable(need_bytes):
            log.warning("did not take a footprint of %d bytes for %s", need_bytes, key.model)
            return
        if self._entries.get(key) == need_bytes:
            return
        self._entries = add_entry(self._entries, key, need_bytes)
        self._is_written = False
        if self._path is not None and (self._writing is None or self._writing.done()):
            writing = self._write_all(self._path)
            self._writing = asyncio.get_running_loop().create_task(writing, name="keep footprints")

    async def close(self) -> None:
        """Wait for what is still to be written, as long as a disk may take to answer."""
        if self._writing is not None:
            await self._writing

    async def _write_all(self, path: Path) -> None:
        while not self._is_written:
            self._is_written = True
            content = write_entries(self._entries)
            try:
                await SlowCall("keep footprints", partial(_write, path, content)).answer(
                    self._timeout_s
                )
            except (OSError, TimeoutError) as error:
                self._warn(path, error)
                return

    def _warn(self, path: Path, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            reason = str(error) or f"the disk did not answer for {self._timeout_s:g} s"
            log.warning("could not keep footprints in %s: %s", path, reason)


def _read(path: Path) -> dict[FootprintKey, int]:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
        if len(content) > _FILE_BYTES_MAX:
            raise UnreadableError(f"it is larger than {_FILE_BYTES_MAX} bytes")
        return read_entries(content)
    except FileNotFoundError:
        return {}
    except (OSError, UnreadableError) as error:
        log.warning("did not use the footprints in %s: %s", path, error)
        return {}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            # Without this a power cut can leave the new name with nothing behind it.
            os.fsync(descriptor)
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise

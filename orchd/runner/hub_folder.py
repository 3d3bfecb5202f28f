"""Reads a Hugging Face model's folder from the disk, wherever the pool's ``model`` leads to.

That is a folder, or a name on the hub, which is looked up in the cache where the engine itself
would look; a model that is not there yet is downloaded by its engine, and nothing is known of it
before. A GGUF file is read as one. Everything here blocks and is meant for a thread; what is read
is bounded, whatever lies there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from orchd.errors import HostError
from orchd.runner.footprint import LoadedFile
from orchd.runner.gguf_cursor import ModelFileError
from orchd.runner.hub_model import (
    LENGTH_BYTES,
    cache_folder,
    check_header,
    read_config,
    read_header_bytes,
    read_hub_facts,
    read_index,
    repository_folder,
)
from orchd.runner.model_file import (
    ModelFiles,
    ModelReader,
    Stamp,
    explain_denial,
    is_unchanged,
)

_CONFIG, _INDEX = "config.json", "model.safetensors.index.json"
_CONFIG_BYTES_MAX = 4 << 20
_INDEX_BYTES_MAX = 32 << 20
"""That of DeepSeek V3, with its 90,000 tensors, has 9 MB."""
_HEADER_BYTES_MAX = 16 << 20
"""A longer one is not looked into: a hundred tensors take some 10 kB."""
_REF_BYTES_MAX = 256
_ENTRIES_MAX = 100_000
_NAME_CHARS = 100
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")


class HubReader:
    """Reads one model, again only where it has changed."""

    def __init__(self, model: str, environment: Mapping[str, str]) -> None:
        self._model = model
        self._environment = environment
        self._gguf = ModelReader(model)
        self._last: ModelFiles | None = None

    def read(self) -> ModelFiles | None:
        """None for a name whose model is not here, or not whole, yet.

        Raises HostError where a path leads to no model that could be loaded.
        """
        if self._last is not None and is_unchanged(self._last.stamps):
            return self._last
        self._last = None
        if not self._model.startswith("/"):
            self._last = self._read_cached()
        elif self._model.endswith(".gguf"):
            return self._gguf.read()
        else:
            self._last = _Folder(self._model, Path(self._model)).read()
        return self._last

    def _read_cached(self) -> ModelFiles | None:
        cache = cache_folder(self._environment)
        if cache is None:
            return None
        repository = Path(cache, repository_folder(self._model))
        try:
            reference = repository / "refs" / "main"
            revision = _read_file(reference, _REF_BYTES_MAX, {}).decode().strip()
            if not revision.isalnum():
                return None
            return _Folder(self._model, repository / "snapshots" / revision).read()
        except (OSError, ValueError, HostError, ModelFileError):
            # Its engine completes what is there, or says in its own words what is wrong with it.
            return None


class _Folder:
    """One folder, being read."""

    def __init__(self, model: str, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self._stamps: dict[str, Stamp] = {}

    def read(self) -> ModelFiles:
        """Raises HostError."""
        try:
            config = read_config(self._read(_CONFIG, _CONFIG_BYTES_MAX))
            sizes = [self._measure(name) for name in self._list_weights()]
            facts = read_hub_facts(config, sum(sizes))
        except ModelFileError as error:
            raise HostError(f"model {self._model} {error}") from error
        except OSError as error:
            raise HostError(f"model {self._model}: {self._explain(error)}") from error
        except ValueError as error:  # a NUL in its name
            raise HostError(f"model {self._model}: {error}") from error
        return ModelFiles((LoadedFile(facts.weights, facts),), self._stamps)

    def _read(self, name: str, most_bytes: int) -> bytes:
        return _read_file(self._folder / name, most_bytes, self._stamps)

    def _list_weights(self) -> Sequence[str]:
        """The files that the weights are in, as vLLM's loader chooses them."""
        with os.scandir(self._folder) as entries:
            names = sorted(entry.name for entry in islice(entries, _ENTRIES_MAX))
        if _INDEX in names:
            return read_index(self._read(_INDEX, _INDEX_BYTES_MAX)).files
        tensors = [name for name in names if name.endswith(".safetensors")]
        # Mistral's models have the same once more, in one piece.
        if parts := [name for name in tensors if not name.startswith("consolidated")] or tensors:
            return parts
        if pickled := [n for n in names if n.endswith((".bin", ".pt")) and n not in _NO_WEIGHTS]:
            return pickled
        raise ModelFileError("has no weights in it (*.safetensors or *.bin): is it whole?")

    def _measure(self, name: str) -> int:
        """Bytes of the tensors in a file. One that is cut short is found by its header."""
        descriptor = _open(self._folder / name)
        try:
            seen = os.fstat(descriptor)
            self._stamps[str(self._folder / name)] = Stamp(seen.st_size, seen.st_mtime_ns)
            if not name.endswith(".safetensors"):
                return seen.st_size
            beginning = os.pread(descriptor, LENGTH_BYTES, 0)
            header_bytes = read_header_bytes(beginning, seen.st_size)
            if header_bytes <= _HEADER_BYTES_MAX:
                check_header(_pread(descriptor, header_bytes, LENGTH_BYTES), seen.st_size)
            return seen.st_size - LENGTH_BYTES - header_bytes
        except ModelFileError as error:
            raise ModelFileError(f"cannot be loaded: {_show(name)} in it {error}") from error
        finally:
            os.close(descriptor)

    def _explain(self, error: OSError) -> str:
        named = _show(Path(str(error.filename or self._folder)).name)
        if isinstance(error, PermissionError):
            return explain_denial(error)
        try:
            kind = self._folder.stat().st_mode
        except OSError:
            return "No such folder; write the path of a model's folder, or its name on the hub"
        if not stat.S_ISDIR(kind):
            return "is no folder; write that of the model, its name on the hub, or a GGUF file"
        if isinstance(error, FileNotFoundError):
            return f"{named} is not in it: is it a model's folder, and whole?"
        return f"{named} in it: {error.strerror}"


def _show(name: str) -> str:
    """A file's name as text: on a disk it may be any bytes, in an index as long as that."""
    shown = os.fsencode(name).decode(errors="replace")
    return shown if len(shown) <= _NAME_CHARS else f"{shown[:_NAME_CHARS]}…"


def _open(path: Path) -> int:
    # A FIFO must not hold this up until somebody writes into it.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise ModelFileError(f"cannot be loaded: {_show(path.name)} in it is no file")


def _read_file(path: Path, most_bytes: int, stamps: dict[str, Stamp]) -> bytes:
    """A small file, whole. Raises ModelFileError where it is none, or not small."""
    descriptor = _open(path)
    try:
        seen = os.fstat(descriptor)
        stamps[str(path)] = Stamp(seen.st_size, seen.st_mtime_ns)
        if seen.st_size > most_bytes:
            problem = f"{path.name} is larger than {most_bytes} bytes"
            raise ModelFileError(f"cannot be loaded: {problem}")
        return _pread(descriptor, seen.st_size, 0)
    finally:
        os.close(descriptor)


def _pread(descriptor: int, size_bytes: int, offset: int) -> bytes:
    """So many bytes; fewer where the file ends before."""
    pieces: list[bytes] = []
    while size_bytes > 0 and (piece := os.pread(descriptor, size_bytes, offset)):
        pieces.append(piece)
        size_bytes -= len(piece)
        offset += len(piece)
    return b"".join(pieces)

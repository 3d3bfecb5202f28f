"""Reads what a replica loads from the disk: the heads of a model's files, and whether they changed.

A disk may never answer, so everything here is called in a thread.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchd.engines.memory_demand import Companion
from orchd.errors import HostError
from orchd.runner.footprint import LoadedFile
from orchd.runner.gguf import Head, read_head
from orchd.runner.gguf_cursor import ModelFileError
from orchd.runner.model_facts import add_weights, read_facts

_FIRST_PART = re.compile(r"(.*)-00001-of-(\d{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells one state of a file, or of several, from another."""

    size_bytes: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What the files say, and the state of the disk that said it."""

    loaded: tuple[LoadedFile, ...]
    stamps: dict[str, Stamp]

    @property
    def stamp(self) -> Stamp:
        """Of all of them: their sum, and the newest."""
        size_bytes = sum(stamp.size_bytes for stamp in self.stamps.values())
        return Stamp(size_bytes, max(stamp.mtime_ns for stamp in self.stamps.values()))


class ModelReader:
    """Reads a model and its companions, again only where they have changed."""

    def __init__(self, model: str, companions: Sequence[Companion] = ()) -> None:
        self._model = model
        self._companions = companions
        self._last: ModelFiles | None = None

    def read(self) -> ModelFiles:
        """Raises HostError where a file is not there, or is none that could be loaded."""
        if self._last is None or not is_unchanged(self._last.stamps):
            self._last = None
            stamps: dict[str, Stamp] = {}
            loaded = [_load(self._model, None, stamps)]
            loaded += [_load(beside.path, beside, stamps) for beside in self._companions]
            self._last = ModelFiles(tuple(loaded), stamps)
        return self._last


def list_parts(model: str) -> tuple[str, ...]:
    """The model's file, and those of its further parts if its name is that of a first one.

    A whole model may have such a name too: whether the others are there is not asked.
    """
    named = _FIRST_PART.fullmatch(model)
    if named is None:
        return (model,)
    count = int(named[2])
    return (model, *(f"{named[1]}-{n:05}-of-{count:05}.gguf" for n in range(2, count + 1)))


def measure_file(model: str) -> int:
    """A file's bytes. Raises HostError where it cannot be opened; what it holds does not matter."""
    descriptor = open_file(model, model)
    try:
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


def open_file(model: str, path: str) -> int:
    """A descriptor of the model's file at ``path``, to be read. Raises HostError where it cannot
    be opened, or is no file."""
    part = "" if path == model else f"a part of it cannot be read, {path}: "
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise HostError(f"model {model}: {part}{_explain(error)}") from error
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind):
        return descriptor
    os.close(descriptor)
    raise HostError(f"model {path}: {_name_in(path) if stat.S_ISDIR(kind) else 'is no file'}")


def explain_denial(error: PermissionError) -> str:
    """What to do where the daemon may not read a model."""
    mend = "have its owner allow that (chmod), or run orchd as one who may"
    return f"{error.strerror}: user {os.geteuid()} may not read it; {mend}"


def is_unchanged(stamps: dict[str, Stamp]) -> bool:
    """Whether these files are still as they were."""
    try:
        return all(_stamp(Path(path).stat()) == stamp for path, stamp in stamps.items())
    except OSError:
        return False


def _stamp(seen: os.stat_result) -> Stamp:
    return Stamp(seen.st_size, seen.st_mtime_ns)


def _load(model: str, companion: Companion | None, stamps: dict[str, Stamp]) -> LoadedFile:
    try:
        first = _read_head(model, model, stamps)
        parts = first.values.get("split.count", 1)
        heads = [first]
        if isinstance(parts, int) and parts > 1:
            heads += _read_further_parts(model, first, parts, stamps)
        is_model = companion is None or companion.has_cache
        facts = read_facts(heads) if is_model else None
        return LoadedFile(add_weights([head.weights for head in heads]), facts, companion)
    except ModelFileError as error:
        raise HostError(f"model {model} {error}") from error


def _read_further_parts(
    model: str, first: Head, parts: int, stamps: dict[str, Stamp]
) -> list[Head]:
    """The heads of a split model's other files, found by its first one's name as llama.cpp does."""
    number = first.values.get("split.no", 0)
    if number != 0:
        raise ModelFileError(f"is one of {parts} parts and not the first; name the first part")
    paths = list_parts(model)
    if len(paths) != parts:
        ending = f"-00001-of-{parts:05}.gguf"
        raise ModelFileError(f"is one of {parts} parts, but its name does not end in {ending}")
    return [_read_head(model, path, stamps) for path in paths[1:]]


def _read_head(model: str, path: str, stamps: dict[str, Stamp]) -> Head:
    descriptor = open_file(model, path)
    try:
        seen = os.fstat(descriptor)
        stamps[path] = _stamp(seen)
        return read_head(lambda offset, size: os.pread(descriptor, size, offset), seen.st_size)
    except OSError as error:
        raise HostError(f"model {path}: {error.strerror}") from error
    except ModelFileError as error:
        raise HostError(f"model {path} {error}") from error
    finally:
        os.close(descriptor)


def _explain(error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return f"{error.strerror}; write the path of a GGUF file that is there"
        case PermissionError():
            return explain_denial(error)
        case OSError():
            return str(error.strerror)
        case _:
            return str(error)


def _name_in(folder: str) -> str:
    """What to write instead of a folder, as models come in ones."""
    there = (entry.name for entry in Path(folder).iterdir())
    # One that is no text could not be told on.
    names = sorted(name for name in there if name.endswith(".gguf") and name.isprintable())
    mend = f"write the GGUF file in it: {names[0]}" if names else "write the path of a GGUF file"
    more = f", or one of {len(names) - 1} more" if len(names) > 1 else ""
    return f"Is a directory; {mend}{more}"

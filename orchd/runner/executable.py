"""Finds, of the executables that an engine could run with, the first that this machine has."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from orchd import engines
from orchd.engines.adapter import Binary, Executable, PythonModule
from orchd.errors import HostError

_LAUNCHERS = Path(engines.__file__).parent


@dataclass(frozen=True, slots=True)
class Found:
    """The start of a command line, and the engine's version where it is known without asking."""

    command: tuple[str, ...]
    version: str | None


def find_executable(executables: Sequence[Executable]) -> Found:
    """The best one there is. Raises HostError that names all that were looked for, and each way to
    have one."""
    missing: list[str] = []
    mends: list[str] = []
    for executable in executables:
        match executable:
            case Binary(name, key):
                if (path := shutil.which(name)) is not None:
                    return Found((path,), None)
                what, mend = _explain_missing(name, key)
                missing.append(what)
                mends.append(mend)
            case PythonModule(script, requires, hint):
                if importlib.util.find_spec(requires) is not None:
                    # A tenth of a start that not every pool needs (measured).
                    from importlib.metadata import version

                    told = f"{requires} {version(requires)}"
                    # -P: the launcher's folder must not shadow packages that it imports.
                    return Found((sys.executable, "-P", str(_LAUNCHERS / script)), told)
                missing.append("no embedded engine")
                mends.append(hint)
            case _:
                assert_never(executable)
    raise HostError(f"{' and '.join(missing)}; {', or '.join(mends)}")


def _explain_missing(name: str, key: str) -> tuple[str, str]:
    """What is wrong with a program that cannot be run, and the mend."""
    if "/" not in name:
        mend = f"put {name} there, or write its path as the pool's {key}"
        return f"no executable {name} on PATH", mend
    path = Path(name)
    if path.is_dir():
        return f"no executable {name}: it is a folder", "name the program in it"
    if path.exists():
        return f"no executable {name}: it may not be executed", f"chmod +x {name}"
    return f"no executable {name}", f"write as the pool's {key} where it is"


def identify_engine(executables: Sequence[Executable]) -> str:
    """Text that changes whenever the engine that would be started does; empty where none is there.

    A binary says its version only when it is run, so its path, size and time of change stand for
    it. Blocks: call it in a thread.
    """
    try:
        found = find_executable(executables)
        if found.version is not None:
            return found.version
        program = Path(found.command[0]).resolve()
        seen = program.stat()
    except (HostError, OSError):
        return ""
    return f"{program} {seen.st_size} {seen.st_mtime_ns}"

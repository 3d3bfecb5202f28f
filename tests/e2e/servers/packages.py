"""Fetches packages into a folder of their own, once, beside everything that can be fetched again.

Never into the environment that runs the tests: what a server wants installed beside it is its own
affair.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from demo_model import find_cache_dir

_INSTALL_TIMEOUT_S = 240.0


def kept_folder() -> Path:
    """Where they are kept."""
    return find_cache_dir(os.environ) / "servers"


@functools.cache
def install(name: str, *requirements: str, variables: tuple[tuple[str, str], ...] = ()) -> Path:
    """The folder that has these packages, for PYTHONPATH; skips where pip cannot have them.

    ``variables`` are for pip. A folder's name tells what it was made of: another version of one of
    them or of Python means another folder.
    """
    made_of = repr((requirements, variables, sys.version)).encode()
    kept = kept_folder() / f"{name}-{hashlib.sha256(made_of).hexdigest()[:12]}"
    keep(kept, lambda staging: _fetch(staging, requirements, dict(variables)))
    return kept


def keep(kept: Path, make: Callable[[Path], None]) -> None:
    """Have ``kept`` made, unless it is there; a folder that appears whole or not at all."""
    if kept.exists():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=kept.parent, prefix=f".{kept.name}-"))
    try:
        make(staging)
        with contextlib.suppress(OSError):  # another run was quicker
            staging.rename(kept)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _fetch(staging: Path, requirements: tuple[str, ...], variables: dict[str, str]) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-compile", "--no-warn-conflicts", "--retries", "1", "--target", str(staging)]
    try:
        done = subprocess.run(
            [*pip, *options, *requirements],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_INSTALL_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"pip did not have {' '.join(requirements)} in {_INSTALL_TIMEOUT_S:g} s")
    if done.returncode != 0:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        pytest.skip(f"pip cannot have {' '.join(requirements)}: {reason}")

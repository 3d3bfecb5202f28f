"""The virtual environment that the service runs in: made, and known to be up to date by a stamp.

The stamp holds what orchd was installed from; it is written last, so that an install that was
broken off is taken up again by the next run.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

_STAMP = ".orchd-installed"
_EXTRA = "llamacpp"


class Venv:
    """The environment at ``path`` with orchd of the source tree ``source``."""

    def __init__(self, path: Path, source: Path, maker: str = sys.executable) -> None:
        self.path = path
        self._source = source
        self._maker = maker
        self._stamp = path / _STAMP

    def is_current(self, with_engine: bool) -> bool:
        """Whether it has what this source tree would put there, and a Python that runs."""
        try:
            stamp = self._stamp.read_text()
        except OSError:
            return False
        return stamp == self._make_stamp(self._wants_engine(with_engine)) and self._has_python()

    def bring_up_to_date(self, with_engine: bool) -> None:
        """Make it, or mend it. An engine that is in once stays. Raises CalledProcessError."""
        with_engine = self._wants_engine(with_engine)
        if not self._has_python():
            shutil.rmtree(self.path, ignore_errors=True)
            _run(self._maker, "-I", "-m", "venv", str(self.path))
        self._stamp.unlink(missing_ok=True)
        wanted = f"{self._source}[{_EXTRA}]" if with_engine else str(self._source)
        pip = (str(self._python), "-I", "-m", "pip", "install", "--disable-pip-version-check")
        _run(*pip, "--quiet", wanted)
        self._stamp.write_text(self._make_stamp(with_engine))

    def remove(self) -> None:
        shutil.rmtree(self.path)

    @property
    def _python(self) -> Path:
        return self.path / "bin" / "python"

    def _has_python(self) -> bool:
        ask = (str(self._python), "-I", "-m", "pip", "--version")
        try:
            return subprocess.run(ask, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def _wants_engine(self, with_engine: bool) -> bool:
        try:
            return with_engine or self._stamp.read_text().startswith(_EXTRA)
        except OSError:
            return with_engine

    def _make_stamp(self, with_engine: bool) -> str:
        """An engine or none, and a digest of what the rest comes from."""
        digest = hashlib.sha256(f"{sys.version}\0{self.path}".encode())
        sources = sorted((self._source / "orchd").rglob("*.py"))
        for file in (self._source / "pyproject.toml", *sources):
            digest.update(f"\0{file.relative_to(self._source)}\0".encode())
            digest.update(file.read_bytes())
        return f"{_EXTRA if with_engine else 'plain'} {digest.hexdigest()}\n"


def _run(*command: str) -> None:
    # What pip says belongs beside the steps that are told, not among them.
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)

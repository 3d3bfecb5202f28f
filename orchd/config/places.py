"""Where orchd looks for its files, by the XDG base directories and systemd's variables.

The environment is an argument. A variable that is empty or holds a relative path counts as unset,
as the XDG specification asks; nothing here creates or opens anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from orchd.errors import HostError

SYSTEM_CONFIG = Path("/etc/orchd/orchd.toml")
_NAME = "orchd"


def directory_from(environ: Mapping[str, str], variable: str) -> Path | None:
    """Return the absolute folder a variable names; of several, parted by colons, the first."""
    # systemd joins the folders of a unit that has several of a kind by colons.
    path = Path(environ.get(variable, "").partition(":")[0])
    return path if path.is_absolute() else None


def home_dir(environ: Mapping[str, str]) -> Path | None:
    """Return the user's home; None where $HOME does not say, as in some system services."""
    home = Path(environ.get("HOME", ""))
    return home if home.is_absolute() else None


def user_config(environ: Mapping[str, str]) -> Path | None:
    """Return where the user's own configuration file would be; None for a user without a home."""
    base = _xdg_base(environ, "XDG_CONFIG_HOME", ".config")
    return base / _NAME / "orchd.toml" if base else None


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder of what outlives the daemon; it need not exist yet.

    systemd's $STATE_DIRECTORY is the folder itself; otherwise ``orchd`` under $XDG_STATE_HOME or
    ``~/.local/state``. Raises HostError where not even $HOME is set.
    """
    if given := directory_from(environ, "STATE_DIRECTORY"):
        return given
    base = _xdg_base(environ, "XDG_STATE_HOME", ".local/state")
    if base is None:
        raise HostError("no folder to keep state in; set HOME, XDG_STATE_HOME or STATE_DIRECTORY")
    return base / _NAME


def _xdg_base(environ: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    given = Path(environ.get(variable, ""))
    if given.is_absolute():
        return given
    home = home_dir(environ)
    return home / below_home if home else None

"""What tools/install asks of the machine beside files: the service's user, and systemd.

Under --root nothing is asked of it.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import subprocess
from pathlib import Path
from typing import Protocol

from install_record import InstallError

_GPU_GROUPS = ("video", "render")
"""Whose the driver's device nodes are, where not everybody may open them."""


class Machine(Protocol):
    """The machine as the installer sees it."""

    @property
    def is_real(self) -> bool: ...
    def has_user(self, name: str) -> bool: ...
    def add_user(self, name: str, home: str) -> None: ...
    def remove_user(self, name: str) -> None: ...
    def hand_to_group(self, path: Path, name: str) -> None: ...
    def reload_units(self) -> None: ...
    def stop_service(self, unit: str) -> None: ...


class ThisMachine:
    """The one that this runs on. Each change raises CalledProcessError where it fails."""

    is_real = True

    def has_user(self, name: str) -> bool:
        with contextlib.suppress(KeyError):
            return bool(pwd.getpwnam(name))
        return False

    def add_user(self, name: str, home: str) -> None:
        """A user for a service, with a group of its own and the right to use the GPUs."""
        groups = [group for group in _GPU_GROUPS if _has_group(group)]
        own_group = ["--gid", name] if _has_group(name) else ["--user-group"]
        _run(
            *("useradd", "--system", *own_group, "--groups", ",".join(groups)),
            *("--home-dir", home, "--no-create-home", "--shell", "/usr/sbin/nologin", name),
        )

    def remove_user(self, name: str) -> None:
        _run("userdel", name)
        # It stays where others are in it, whom the token was shown to.
        if _has_group(name):
            _run("groupdel", name)

    def hand_to_group(self, path: Path, name: str) -> None:
        """The group may read it, and nobody else."""
        if not _has_group(name):
            raise InstallError(f"there is a user {name} and no group {name}; add one")
        os.chown(path, 0, grp.getgrnam(name).gr_gid)
        path.chmod(0o640)

    def reload_units(self) -> None:
        if _has_systemd():
            _run("systemctl", "daemon-reload")

    def stop_service(self, unit: str) -> None:
        """Now, and at the next boot it is not started."""
        if _has_systemd():
            _run("systemctl", "disable", "--now", unit)


class StagedTree:
    """A tree that is only looked at, or packaged."""

    is_real = False

    def has_user(self, name: str) -> bool:
        return False

    def add_user(self, name: str, home: str) -> None:
        pass

    def remove_user(self, name: str) -> None:
        pass

    def hand_to_group(self, path: Path, name: str) -> None:
        pass

    def reload_units(self) -> None:
        pass

    def stop_service(self, unit: str) -> None:
        pass


def _has_group(name: str) -> bool:
    with contextlib.suppress(KeyError):
        return bool(grp.getgrnam(name))
    return False


def _has_systemd() -> bool:
    """sd_booted(3): not in a container or a chroot without one."""
    return Path("/run/systemd/system").is_dir()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)

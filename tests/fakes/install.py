"""What tools/install works with, in place of pip, useradd and systemd."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from install_venv import Venv


class FakeMachine:
    """It notes what it is asked to do."""

    is_real = True

    def __init__(self, *users: str) -> None:
        self.users = set(users)
        self.did: list[str] = []

    def has_user(self, name: str) -> bool:
        return name in self.users

    def add_user(self, name: str, home: str) -> None:
        self.users.add(name)
        self.did.append(f"add {name} {home}")

    def remove_user(self, name: str) -> None:
        self.users.remove(name)
        self.did.append(f"remove {name}")

    def hand_to_group(self, path: Path, name: str) -> None:
        assert path.stat().st_mode & 0o777 == 0o600, "others could have read it"
        path.chmod(0o640)
        self.did.append(f"hand {path.name} to {name}")

    def reload_units(self) -> None:
        self.did.append("reload")

    def stop_service(self, unit: str) -> None:
        self.did.append(f"stop {unit}")


class FakeVenv(Venv):
    """A folder with a command in it; ``is_broken`` has the next install fail half way."""

    is_broken = False

    def is_current(self, with_engine: bool) -> bool:
        return (self.path / "stamp").exists()

    def bring_up_to_date(self, with_engine: bool) -> None:
        (self.path / "bin").mkdir(parents=True, exist_ok=True)
        (self.path / "bin" / "orchd").write_text("#!/bin/sh\n")
        if FakeVenv.is_broken:
            FakeVenv.is_broken = False
            raise subprocess.CalledProcessError(1, ["pip"])
        (self.path / "stamp").touch()

    def remove(self) -> None:
        shutil.rmtree(self.path)

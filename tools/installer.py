"""The steps of tools/install: each looks, says what it finds or does, and does it.

Invariants: a step that finds its work done changes nothing; a dry run takes the same way and stops
short of each change; what stands there and is not in the record is left as it is.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from install_machine import Machine
from install_record import InstallError, Made, Record, digest_of
from install_venv import Venv

USER = "orchd"
STATE = "/var/lib/orchd"
UNIT = "orchd.service"
CONFIG = "/etc/orchd/orchd.toml"
TOKEN = "/etc/orchd/token"
UNIT_PATH = f"/etc/systemd/system/{UNIT}"
COMMAND = "/usr/local/bin/orchd"
UNIT_PREFIX = "/opt/orchd"
"""What orchd.service says, as it stands in the source tree."""

EXAMPLE = f"""\
# The service's configuration; the README has every key. Every user of this machine can read it, so
# that `orchd ask` finds the daemon: no secret belongs here.

[server]
listen = "127.0.0.1:8642"     # beyond loopback the unit has to allow it too, see the README

[auth]
token_file = "{TOKEN}"  # for members of the group {USER}

[[pools]]
id = "chat"
engine = "llamacpp"
model = "/srv/models/model.gguf"   # a file that the user {USER} can read
# devices = ["cpu"]                # where there is no GPU
"""


@dataclass(frozen=True, slots=True)
class Places:
    """From where, and to where."""

    source: Path
    prefix: Path
    root: Path | None = None
    """Under which everything is laid, where that is not the machine itself."""

    def at(self, name: str) -> Path:
        """Where something goes that the service sees as ``name``."""
        return Path(name) if self.root is None else self.root / name.lstrip("/")


class Installer:
    """One run; ``say`` gets one line for each step."""

    def __init__(
        self,
        places: Places,
        machine: Machine,
        say: Callable[[str], None],
        *,
        is_dry: bool,
        open_venv: Callable[[Path, Path], Venv] = Venv,
        python: Path = Path(sys.executable),
    ) -> None:
        self._places = places
        self._machine = machine
        self._say = say
        self._is_dry = is_dry
        self._open_venv = open_venv
        self._python = python
        # What a dry run would have made, or removed, by now.
        self._would_make: set[str] = set()
        self._would_remove: set[Path] = set()
        self._prefix = str(places.prefix)
        self._record = Record(places.at(f"{self._prefix}/installed.json"))

    def install(self, with_engine: bool) -> None:
        """Every step that is not done yet. Raises InstallError, OSError, CalledProcessError."""
        unit = self._render_unit()
        self._check_python()
        self._ensure_folder(self._prefix)
        self._ensure_user()
        self._ensure_venv(with_engine)
        self._ensure_link(COMMAND, f"{self._prefix}/venv/bin/orchd")
        self._ensure_file(CONFIG, EXAMPLE.encode())
        self._ensure_file(TOKEN, f"{secrets.token_urlsafe(32)}\n".encode(), is_secret=True)
        if self._ensure_file(UNIT_PATH, unit, is_followed=True) and not self._is_dry:
            self._machine.reload_units()
        self._say(
            f"Next:\n  put your model into {CONFIG}\n  systemctl enable --now orchd"
            "    (restart, where it runs already)\n"
            f"  usermod -aG {USER} YOU    (whoever is to read the token, for `orchd ask` and curl)"
        )

    def uninstall(self) -> None:
        """Back to where it began, but for what has been edited. Raises as ``install`` does."""
        if not self._record.made:
            self._say(f"nothing was installed under {self._prefix}")
            return
        is_there = self._places.at(UNIT_PATH).exists()
        if is_there and self._record.find("file", UNIT_PATH) is not None and not self._is_dry:
            self._machine.stop_service(UNIT)
        for made in reversed(self._record.made):
            self._remove(made)
        if not self._is_dry:
            self._record.remove()
            self._machine.reload_units()
        for left in (STATE, f"{UNIT_PATH}.d"):
            if self._places.at(left).exists():
                self._say(f"{left}: left, this tool did not make it")

    def _check_python(self) -> None:
        """What the service cannot see it cannot run: homes are hidden from it."""
        python = self._python.resolve()
        if self._machine.is_real and python.parts[1] in ("home", "root"):
            problem = f"the service cannot run {python}: homes are hidden from it; name another one"
            if not self._is_dry:
                raise InstallError(f"{problem}, PYTHON=/usr/bin/python3.12 tools/install")
            self._say(f"Python: {problem}")

    # -- to make -----------------------------------------------------------------------------------

    def _render_unit(self) -> bytes:
        text = (self._places.source / UNIT).read_text(encoding="utf-8")
        return re.sub(rf"{UNIT_PREFIX}(?![\w-])", self._prefix, text).encode()

    def _do(self, what: str, done: str, work: Callable[[], Made]) -> None:
        if self._is_dry:
            self._say(f"{what}: would be {done}")
            return
        self._record.note(work())
        self._say(f"{what}: {done}")

    def _ensure_folder(self, name: str) -> None:
        path = self._places.at(name)
        if path.is_dir() or name in self._would_make:
            return
        if path != self._places.at("/"):
            self._ensure_folder(str(Path(name).parent))
        self._would_make.add(name)

        def make() -> Made:
            path.mkdir(mode=0o755)
            return Made("folder", name)

        self._do(name, "made", make)

    def _ensure_user(self) -> None:
        if not self._machine.is_real:
            self._say(f"user {USER}: left out")
        elif self._machine.has_user(USER):
            self._say(f"user {USER}: there already")
        else:

            def add() -> Made:
                self._machine.add_user(USER, STATE)
                return Made("user", USER)

            self._do(f"user {USER}", "made", add)

    def _ensure_venv(self, with_engine: bool) -> None:
        name = f"{self._prefix}/venv"
        venv = self._open_venv(self._places.at(name), self._places.source)
        made, is_there = Made("venv", name), os.path.lexists(venv.path)
        if is_there and self._record.find("venv", name) is None:
            raise InstallError(f"{name} is there already, and this tool did not make it")
        if venv.is_current(with_engine):
            self._say(f"{name}: up to date already")
            return

        def bring_up_to_date() -> Made:
            self._record.note(made)  # half of one is ours, too
            self._say(f"{name}: installing, which takes a minute")
            venv.bring_up_to_date(with_engine)
            return made

        self._do(name, "brought up to date" if is_there else "made", bring_up_to_date)

    def _ensure_link(self, name: str, target: str) -> None:
        path = self._places.at(name)
        if os.path.lexists(path):
            is_ours = self._record.find("link", name) is not None
            self._say(f"{name}: there already" + ("" if is_ours else ", left as it is"))
            return
        self._ensure_folder(str(Path(name).parent))

        def link() -> Made:
            path.symlink_to(target)
            return Made("link", name, target)

        self._do(name, f"made, a link to {target}", link)

    def _ensure_file(
        self, name: str, content: bytes, *, is_secret: bool = False, is_followed: bool = False
    ) -> bool:
        """Whether it was written; one that is followed is replaced while it is as it was made."""
        path, ours = self._places.at(name), self._record.find("file", name)
        done = "made"
        if os.path.lexists(path):
            found = _read_digest(path)
            if found is None:
                self._say(f"{name}: left as it is, only root can read it")
                return False
            if ours is None or found != ours.content:
                self._say(f"{name}: left as it is, " + ("edited" if ours else "made by others"))
                return False
            if not is_followed or found == digest_of(content):
                self._say(f"{name}: there already")
                return False
            done = "brought up to date"
        self._ensure_folder(str(Path(name).parent))

        def write() -> Made:
            draft = path.with_name(f".{path.name}.draft")
            draft.unlink(missing_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                os.fchmod(descriptor, 0o600 if is_secret else 0o644)
            if is_secret:
                self._machine.hand_to_group(draft, USER)
            draft.replace(path)
            return Made("file", name, digest_of(content))

        self._do(name, done, write)
        return True

    # -- to remove ---------------------------------------------------------------------------------

    def _remove(self, made: Made) -> None:
        path = self._places.at(made.name)
        label = f"user {made.name}" if made.kind == "user" else made.name
        if made.kind != "user" and not os.path.lexists(path):
            self._say(f"{label}: gone already")
        elif (why := self._find_reason_to_keep(made, path)) is not None:
            self._say(f"{label}: kept, {why}")
        elif self._is_dry:
            self._would_remove.add(path)
            self._say(f"{label}: would be removed")
        else:
            self._remove_now(made, path)
            self._say(f"{label}: removed")

    def _find_reason_to_keep(self, made: Made, path: Path) -> str | None:
        match made.kind:
            case "file":
                return None if _read_digest(path) == made.content else "it was edited"
            case "link":
                is_same = path.is_symlink() and str(path.readlink()) == made.content
                return None if is_same else "it was changed"
            case "folder":
                left = set(path.iterdir()) - self._would_remove - {self._record.path}
                return "it is not empty" if left else None
            case "venv":
                return "it is a link" if path.is_symlink() else None
            case "user":
                return None if self._machine.has_user(made.name) else "there is none"
            case _:
                assert_never(made.kind)

    def _remove_now(self, made: Made, path: Path) -> None:
        match made.kind:
            case "file" | "link":
                path.unlink()
            case "folder":
                if path == self._record.path.parent:
                    self._record.remove()
                path.rmdir()
            case "venv":
                self._open_venv(path, self._places.source).remove()
            case "user":
                self._machine.remove_user(made.name)
            case _:
                assert_never(made.kind)


def _read_digest(path: Path) -> str | None:
    """Of a file, empty for what is none; None where it may not be read."""
    try:
        return digest_of(path.read_bytes()) if path.is_file() else ""
    except PermissionError:
        return None

"""What tools/install has made on this machine, written down as it is made.

Invariants: what is not in the record is somebody else's and is never changed or removed; a file
counts as ours for as long as its content is what was written into it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

Kind = Literal["folder", "file", "link", "venv", "user"]


class InstallError(Exception):
    """Why it cannot go on, for the user."""


@dataclass(frozen=True, slots=True)
class Made:
    """One thing that was made."""

    kind: Kind
    name: str
    """Its path as the service sees it; a user's name."""
    content: str = ""
    """A file's digest, a link's target."""


class Record:
    """The list, in the order in which things were made; saved at every change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made = _read(path)

    def find(self, kind: Kind, name: str) -> Made | None:
        return next((m for m in self.made if (m.kind, m.name) == (kind, name)), None)

    def note(self, made: Made) -> None:
        """It is made, or made anew."""
        before = self.find(made.kind, made.name)
        if before is None:
            self.made.append(made)
        else:
            self.made[self.made.index(before)] = made
        self._save()

    def remove(self) -> None:
        """Nothing is ours any more."""
        self.path.unlink(missing_ok=True)

    def _save(self) -> None:
        if not self.path.parent.is_dir():
            return  # it is being made, and what is above it; the next change saves them all
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps({"made": [asdict(made) for made in self.made]}, indent=1))
        draft.replace(self.path)


def digest_of(content: bytes) -> str:
    """Safe to show also of a token: of ours alone is it kept, and those cannot be guessed."""
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> list[Made]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        made = [Made(**each) for each in told["made"]]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as fault:
        raise InstallError(f"{path} is damaged; it says what was installed: {fault}") from fault
    if any(each.kind not in get_args(Kind) for each in made):
        raise InstallError(f"{path} is of another version of this tool")
    return made

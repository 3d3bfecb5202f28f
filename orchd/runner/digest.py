"""What a model's files have to hash to: who says so, and what is said where nobody does.

A pool's ``sha256`` is for the file that its ``model`` names; a sidecar, ``<file>.sha256``, is for
the file that it lies beside. Where both speak and differ the pool's counts: it was written for this
pool on purpose, and is held to all the same, while a sidecar easily outlives the file it came with.
A sidecar that says nothing that can be used costs a warning and no load.

Sources: GNU coreutils' manual for the lines of ``sha256sum``, with and without ``--tag``, and for
the backslash in front of a line whose file name is escaped; OpenSSL's ``dgst`` writes the tag form
with other spaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

SUFFIX = ".sha256"
SIDECAR_BYTES_MAX = 1 << 16
"""A sidecar may list all that was published together, some hundred files."""

_HEX = r"[0-9a-fA-F]{64}"
_BARE = re.compile(_HEX)
_LISTED = re.compile(rf"(\\?)({_HEX})(?: [ *]|[ \t]+(?![ \t]))(.+)")
_TAGGED = re.compile(rf"(\\?)SHA(?:2-)?256 ?\((.+)\) ?= ?({_HEX})")
_ESCAPE = re.compile(r"\\([\\nr])")
_ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}
_SHOWN_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Unclear:
    """There is a sidecar, and nothing can be made of it."""

    reason: str
    """Goes on from the sidecar's name."""


Sidecar = str | Unclear | None
"""A digest in lower case; None where there is no such file."""


@dataclass(frozen=True, slots=True)
class Check:
    """One file, what it has to hash to, and who says so."""

    path: str
    digest: str
    source: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be checked of a model; ``warnings`` tell of what is not, or not as it says."""

    checks: tuple[Check, ...]
    warnings: tuple[str, ...]


def read_sidecar(content: bytes, name: str) -> str | Unclear:
    """The digest that a sidecar has for the file of that name; a digest with no name is for it.

    Lines of other files, and whatever else there is, are passed over.
    """
    text = content.decode("utf-8-sig", "surrogateescape")
    said = {_read_line(line.removesuffix("\r"), name) for line in text.split("\n")}
    digests = sorted(digest for digest in said if digest is not None)
    match digests:
        case [digest]:
            return digest
        case []:
            return Unclear(f"holds no sha256 of {name}")
        case _:
            return Unclear(f"holds {len(digests)} different sha256 of {name}")


def plan_checks(model: str, written: str | None, sidecars: Mapping[str, Sidecar]) -> Plan:
    """Which of a model's files to check. ``written`` is the pool's own digest of ``model``,
    ``sidecars`` has each file that is there, the model itself and its further parts."""
    checks, warnings, unproven = [], [], []
    if written is not None:
        digest = written.lower()
        checks.append(Check(model, digest, "the pool's sha256"))
        beside = sidecars.get(model)
        if isinstance(beside, str) and beside != digest:
            its, ours = _show_both(beside, digest)
            warnings.append(
                f"did not use {model}{SUFFIX}: it says {its}, and the pool's sha256, which counts,"
                f" {ours}"
            )
    for path, sidecar in sidecars.items():
        match sidecar:
            case _ if path == model and written is not None:
                pass
            case str(digest):
                checks.append(Check(path, digest, path + SUFFIX))
            case Unclear(reason):
                unproven.append(f"{path}: {path}{SUFFIX} {reason}")
            case None:
                mend = f"put it into {path}{SUFFIX}" + ", or the pool's sha256" * (path == model)
                unproven.append(f"{path}: no sha256 is known for it; {mend}")
    if unproven:
        others = len(unproven) - 1
        rest = f" (nor were {others} more of its parts checked)" if others else ""
        warnings.append(f"did not check {unproven[0]}{rest}")
    return Plan(tuple(checks), tuple(warnings))


def explain_mismatch(check: Check, found: str) -> str:
    """What is wrong with a file that hashes to something else, and the mend."""
    its, wanted = _show_both(found, check.digest)
    return (
        f"model {check.path} is not what it should be: its sha256 is {its}, and {check.source}"
        f" says {wanted}; fetch it anew, or mend the digest if that is what is wrong"
    )


def shorten(digest: str) -> str:
    """Enough of it to be told from another, for people."""
    return digest[:_SHOWN_DIGITS] + "…"


def _show_both(one: str, other: str) -> tuple[str, str]:
    """Short, unless what differs would not be seen then: a slip of the hand may be anywhere."""
    short = shorten(one), shorten(other)
    return (one, other) if short[0] == short[1] else short


def _read_line(line: str, name: str) -> str | None:
    if listed := _LISTED.fullmatch(line):
        escape, digest, path = listed.groups()
    elif tagged := _TAGGED.fullmatch(line):
        escape, path, digest = tagged.groups()
    else:
        bare = line.strip()
        return bare.lower() if _BARE.fullmatch(bare) else None
    if escape:
        path = _ESCAPE.sub(lambda found: _ESCAPED[found[1]], path)
    # It was written in whatever folder; the name is what still holds here. Of what came by a pipe
    # sha256sum knows no name.
    return digest.lower() if path == "-" or path.rpartition("/")[2] == name else None

"""Makes a system service of this source tree, and takes it away again; tools/install starts it.

Runs on the system's Python alone, before anything of ours is installed. What it makes is written
down in PREFIX/installed.json as it is made; only that is ever changed or removed, and a file that
has been edited since is kept and named.

Exit status: 0 done, 1 failed (one clear line on stderr), 2 a wrong command line.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Isolated as it runs, it finds its siblings by this alone.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from install_machine import StagedTree, ThisMachine
from install_record import InstallError
from installer import Installer, Places

SOURCE = Path(__file__).resolve().parent.parent
PREFIX = "/opt/orchd"


def main(argv: Sequence[str] | None = None, euid: int = os.geteuid()) -> int:
    options = build_parser().parse_args(argv)
    # What is installed is for every user, whatever root's own files are.
    os.umask(0o022)
    places = Places(SOURCE, options.prefix, options.root)
    machine = ThisMachine() if options.root is None else StagedTree()
    installer = Installer(places, machine, print, is_dry=options.dry_run)
    try:
        if options.root is None and not options.dry_run and euid != 0:
            raise InstallError("needs root: sudo tools/install; --dry-run tells what it would do")
        if options.uninstall:
            installer.uninstall()
        else:
            installer.install(options.llamacpp)
    except (InstallError, OSError) as fault:
        return complain(str(fault))
    except subprocess.CalledProcessError as fault:
        return complain(f"{fault.cmd[0]} failed with code {fault.returncode}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tools/install",
        description="Installs orchd as a system service: a virtual environment of its own, the user"
        " orchd, the unit, an example configuration and a token. Each step is told. A second run"
        " changes nothing, but for a source tree that is another one by now. Nothing is started.",
    )
    parser.add_argument(
        "--prefix",
        type=read_prefix,
        default=Path(PREFIX),
        metavar="DIR",
        help=f"where orchd itself goes (default: {PREFIX})",
    )
    parser.add_argument("--dry-run", action="store_true", help="tell each step and change nothing")
    parser.add_argument(
        "--uninstall",
        action="store_true",
        help="stop the service and remove what was installed; what you have edited is kept",
    )
    parser.add_argument(
        "--llamacpp", action="store_true", help="with the embedded llama.cpp engine (CPU)"
    )
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help="lay all of it under DIR, to look at or to package: no user is made, systemd is not"
        " asked, root is not needed",
    )
    return parser


def read_prefix(text: str) -> Path:
    """A folder that the unit can name, and that its service can see."""
    if not re.fullmatch(r"(/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+", text):
        raise argparse.ArgumentTypeError(f"{text} is no absolute path of plain letters and digits")
    if re.match(r"/(home|root|run|tmp|dev|proc|sys)/", text + "/"):
        raise argparse.ArgumentTypeError(f"{text} is hidden from the service, or does not last")
    return Path(text)


def complain(problem: str) -> int:
    print(f"install: {problem}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())

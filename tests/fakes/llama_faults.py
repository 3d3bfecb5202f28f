"""What goes wrong with the fake ``llama-server``: as a process, and while it loads.

Part of the script ``llama_server.py``: the standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path

from tests.fakes.journal import write_entry

MIB = 1 << 20
_WRITE_BYTES = 64 * 1024


@dataclass(frozen=True)
class Faults:
    """What goes wrong; each field is read from ``FAKE_`` and its name in capitals, or, for the
    engines of one model alone, from a JSON object in a file beside it (``model_faults``)."""

    exit_at_load: str = ""
    """Say this and exit with code 1 instead of loading."""
    exit_once: str = ""
    """A path: the same, but only while no such file is there; it is made on the way."""
    exit_but_once: str = ""
    """A path: the same, but only once such a file is there; it is made on the way."""
    exit_unended: str = ""
    """The same without a line's end, and by SIGABRT."""
    crash_at_load: int = 0
    """Die of the signal of that number instead of loading."""
    load_s: float = 0.0
    load_lines: int = 0
    """Lines said while loading, evenly spread."""
    load_mib: int = 0
    """Memory that grows by so much while loading, evenly, without a word."""
    loads_while: str = ""
    """A path: loading does not end while such a file is there, and says so all the time."""
    first_load_only: str = ""
    """A path: what is wrong at load (``_AT_LOAD``) is so only while no such file is there; it is
    made on the way. ``loads_while`` is for the loads after that."""
    never_healthy: int = 0
    restless: int = 0
    """While it loads, /health says something else each time."""
    hold_port: str = ""
    """A path: its port is written there before it is bound, which waits for the file to go."""
    never_binds: int = 0
    """It says nothing and listens to nobody."""
    model: str = ""
    """Claim to serve this one."""
    key: str = ""
    """Accept this key only."""
    any_key: int = 0
    """Accept whatever key comes, and none."""
    prompt: str = ""
    """Put these words before every prompt."""
    ignore_sigterm: int = 0
    grandchild: int = 0
    """Start a process that ignores SIGTERM and holds the log open."""
    stray: int = 0
    """The same in a process group of its own, in our session."""
    held_until: str = ""
    """A path: no token is made for a prompt with ``[held]`` before a file is there."""
    onces: str = ""
    """The folder of ``[once N]``."""
    journal: str = ""
    """A path: a line for each generation that begins, for each that ends well, and for a flood that
    is over (``journal``)."""
    flood_bytes: int = 0
    """Say so much, as fast as it can, once it is ready."""
    flood_at_load_bytes: int = 0
    """The same before it has loaded."""
    flood_of: str = "lines"
    """``lines``, ``unended`` (one line without an end) or ``binary`` (bytes that are no text)."""
    gates: str = ""
    """The folder with the FIFOs of ``[gate N]``."""
    vram_folder: str = ""
    """The fake NVML's, to take memory of the card that CUDA_VISIBLE_DEVICES names."""
    vram_mib: int = 0
    vram_lag_ms: int = 0
    """How long the driver keeps it once this process is gone."""
    cpu_once: str = ""
    """A path: take none, as on the CPU, while no such file is there; it is made on the way."""


_AT_LOAD = (
    *("exit_at_load", "exit_unended", "crash_at_load", "load_s", "load_lines", "load_mib"),
    *("never_healthy", "restless", "hold_port", "never_binds", "model", "key", "any_key"),
    *("flood_at_load_bytes",),
)
"""What ``first_load_only`` is about."""


def model_faults(model: str | Path) -> Path:
    """Where the faults of a model stand; what they say goes before the environment."""
    return Path(f"{model}.faults")


def read_faults(environ: dict[str, str], model: str) -> Faults:
    """The faults that the environment and the model ask for."""
    plain, given = Faults(), {}
    of_model: dict[str, object] = {}
    with contextlib.suppress(OSError):
        of_model = json.loads(model_faults(model).read_text())
    for field in fields(Faults):
        value = of_model.get(field.name, environ.get(f"FAKE_{field.name.upper()}"))
        if value is not None:
            given[field.name] = type(getattr(plain, field.name))(value)
    faults = replace(plain, **given)
    if not faults.first_load_only:
        return faults
    if is_first(Path(faults.first_load_only)):
        return replace(faults, loads_while="")
    return replace(faults, **{name: getattr(plain, name) for name in _AT_LOAD})


def is_first(mark: Path) -> bool:
    """True for the first who asks, of all processes: it leaves a file there."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def say(line: str) -> None:
    """Log one line in one write, so that threads do not tear it."""
    os.write(2, line.encode() + b"\n")


def flood(size_bytes: int, faults: Faults) -> None:
    """Log so many bytes, as fast as they are taken; then note it."""
    if not size_bytes:
        return
    piece = {
        "lines": b"flood flood\n",
        "unended": b"flood ",
        "binary": bytes(range(0x80, 0x100)) + b"\0\x1b[2J\r",
    }[faults.flood_of]
    block = (piece * (_WRITE_BYTES // len(piece) + 1))[:_WRITE_BYTES]
    while size_bytes > 0:
        size_bytes -= os.write(2, block[:size_bytes])
    write_entry(faults.journal, "flooded")


def fail_at_load(options: argparse.Namespace, faults: Faults) -> None:
    """Exit as the real one does when it cannot load; returns where nothing stands against it."""
    if faults.exit_at_load:
        sys.exit(faults.exit_at_load)
    if faults.exit_once and is_first(Path(faults.exit_once)):
        sys.exit("error: failed once")
    if faults.exit_but_once and not is_first(Path(faults.exit_but_once)):
        sys.exit("error: did not fail once")
    if faults.exit_unended:
        os.write(2, faults.exit_unended.encode())
        die(signal.SIGABRT)
    if faults.crash_at_load:
        die(signal.Signals(faults.crash_at_load))
    if not Path(options.model).is_file():
        sys.exit(f"error: failed to load model, '{options.model}'")


def wait_before_bind(port: int, faults: Faults) -> None:
    """Do what is to be done before the port is bound: nothing, wait for somebody, hang."""
    if faults.hold_port:
        held = Path(faults.hold_port)
        draft = held.with_suffix(".draft")
        draft.write_text(str(port))
        draft.rename(held)
        while held.exists():
            time.sleep(0.01)
    if faults.never_binds:
        signal.pause()


def load(faults: Faults) -> None:
    """Take as long as asked, showing as much of it as asked."""
    grown = []
    steps = faults.load_lines or faults.load_mib or 1
    for n in range(steps):
        if faults.load_lines:
            say(f"load_tensors: {n} of {faults.load_lines}")
        if faults.load_mib:
            # Written to, for untouched memory is none.
            grown.append(b"\x01" * MIB)
        time.sleep(faults.load_s / steps)
    flood(faults.flood_at_load_bytes, faults)
    while faults.loads_while and Path(faults.loads_while).exists():
        say("load_tensors: not yet")
        time.sleep(0.1)


def take_vram(faults: Faults, card: str) -> None:
    """Hold memory of a card for as long as this process lives, and the lag after it."""
    if not faults.vram_folder or not card:
        return
    if faults.cpu_once and is_first(Path(faults.cpu_once)):
        return
    draft = Path(faults.vram_folder) / f"draft-{os.getpid()}"
    draft.write_text(f"{card} {faults.vram_mib} {faults.vram_lag_ms}")
    draft.rename(Path(faults.vram_folder) / "taken" / str(os.getpid()))


def start_children(faults: Faults) -> None:
    """Start the processes of its own that it is asked to have."""
    program = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.pause()"
    command = [sys.executable, "-I", "-S", "-c", program]
    if faults.grandchild:
        subprocess.Popen(command)
    if faults.stray:
        subprocess.Popen(command, process_group=0)


def die(number: signal.Signals) -> None:
    """End this process by a signal, without a core."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    threading.Event().wait()


def hear_signals(faults: Faults, deafen: threading.Event) -> None:
    """SIGUSR1: abort. SIGUSR2: answer nobody any more."""
    if faults.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def abort(*_: object) -> None:
        with contextlib.suppress(OSError):
            say("GGML_ASSERT(false) failed: error: asked to abort")
        die(signal.SIGABRT)

    signal.signal(signal.SIGUSR1, abort)
    signal.signal(signal.SIGUSR2, lambda *_: deafen.set())

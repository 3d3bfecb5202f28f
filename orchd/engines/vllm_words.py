"""What vLLM's output tells: how far a load has come, and why it failed.

Lines are as vLLM 0.10 to 0.32 write them, behind a prefix such as
``(EngineCore pid=284) INFO 05-30 07:47:06 [gpu_worker.py:619]``; bars are tqdm's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_PREFIX = re.compile(
    r"(?:\([\w ]+ pid=\d+\)\s*)?(?:(?:ERROR|WARNING|INFO|CRITICAL) [\d-]+ [\d:]+ \[[^\]]*\]\s*)?"
)
_COUNTED = re.compile(r"(\d+)/(\d+) \[")
_DOWNLOADED = re.compile(r"\S+\.(?:safetensors|bin|pt|json): +(\d+)%\|")
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*(?:[A-Z]\w*)?(?:Error|Exception|Interrupt)\b: ")
_POINTERS = ("See root cause above", "See stack trace above", "See stack trace for root cause")
"""Those of the process that only heard of it."""
_VALIDATION = re.compile(r": (\d+) validation errors? for ")
"""pydantic's: what is wrong stands on the lines behind (vLLM 0.32, measured): of each error its
place where it has one, its words, and where to read of it."""
_READ_OF_IT = "For further information visit "
_FOUND = re.compile(r" \[type=.*")
"""What was found there, which may be the whole configuration."""
_ERRORS, _LINES_EACH = 3, 3

_PHASES: tuple[tuple[str, str], ...] = (
    ("vLLM API server version", "starting"),
    ("Resolved architecture", "starting"),
    ("Initializing a V1 LLM engine", "starting"),
    ("Time spent downloading weights", "loading weights"),
    ("Starting to load model", "loading weights"),
    ("checkpoint shards", "loading weights"),
    ("Loading weights took", "weights loaded"),
    ("Model loading took", "weights loaded"),
    ("torch.compile took", "measuring memory"),
    ("torch.compile takes", "measuring memory"),
    ("for vLLM's torch.compile", "compiling"),
    ("Start compiling", "compiling"),
    ("Dynamo bytecode transform", "compiling"),
    ("Compiling a graph", "compiling"),
    ("Cache the graph", "compiling"),
    ("Available KV cache memory", "allocating the cache"),
    ("KV cache size", "allocating the cache"),
    ("Autotuning process starts", "tuning kernels"),
    ("[AutoTuner]: Tuning", "tuning kernels"),
    ("Capturing CUDA graph", "capturing CUDA graphs"),
    ("Graph capturing finished", "starting to listen"),
    ("init engine (profile", "starting to listen"),
    ("Starting vLLM", "starting to listen"),
)
"""What a line holds, and what it means; the first that fits counts."""


def read_phase(line: str) -> str | None:
    """What the line tells of how far a load has come; None for one that does not."""
    if (downloaded := _DOWNLOADED.match(line)) is not None:
        return f"downloading the model, a file at {downloaded[1]}%"
    phase = next((phase for mark, phase in _PHASES if mark in line), None)
    if phase is None:
        return None
    # Bars have it behind their head: " 25% Completed | 1/4 [00:02<".
    counted = _COUNTED.search(line)
    return phase if counted is None else f"{phase}, {counted[1]} of {counted[2]}"


def find_cause(lines: Sequence[str]) -> str:
    """The exception that ended it, empty where none is among the lines.

    The engine's own process says it, twice; then the server's process tells at length that it has
    heard of it.
    """
    plain = [_PREFIX.sub("", line, count=1).strip() for line in lines]
    raised = [at for at, line in enumerate(plain) if _RAISED.match(line)]
    causes = [at for at in raised if not any(pointer in plain[at] for pointer in _POINTERS)]
    if not causes:
        return ""
    cause, behind = plain[causes[-1]], plain[causes[-1] + 1 :]
    if (counted := _VALIDATION.search(cause)) is None:
        return cause
    errors = _read_errors(behind, min(int(counted[1]), _ERRORS))
    return " ".join([cause, "; ".join(errors)]).strip()


def _read_errors(lines: Sequence[str], count: int) -> list[str]:
    """The first so many errors of a validation, each in one line."""
    errors: list[str] = [""]
    for line in lines[: count * _LINES_EACH]:
        if not line.startswith(_READ_OF_IT):
            errors[-1] = f"{errors[-1]} {_FOUND.sub('', line)}".strip()
        elif len(errors) == count:
            break
        else:
            errors.append("")
    return [error for error in errors if error]

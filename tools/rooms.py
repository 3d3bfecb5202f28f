"""The rooms of orchd/: which modules are pure, and who may import whom.

The table is the rule and its documentation; ``check_layers`` applies it. A new module gets its row
here, on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Room:
    """One entry right under orchd/: its modules by kind, and what they may import from outside."""

    pure: tuple[str, ...] = ()
    """Decide, and do nothing else: only pure modules, and PURE_STDLIB of ``check_layers``."""
    shells: tuple[str, ...] = ()
    """Do the IO."""
    alone: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Run in processes of their own and import nothing of orchd but each other; each with its
    third parties."""
    imports: tuple[str, ...] = ()
    """Rooms that every module here may import; its own room always."""
    imports_pure_of: tuple[str, ...] = ()
    """Rooms of which only the pure modules may be imported."""
    shells_import: tuple[str, ...] = ()
    """Rooms that only the shells here may import."""
    third_party: tuple[str, ...] = ()
    """Distributions' modules that may be imported here; in pure modules PURE_THIRD_PARTY only."""


ROOMS: dict[str, Room] = {
    # orchd/__init__.py holds the version and nothing else; every shell may read it.
    "__init__": Room(shells=("__init__",)),
    "errors": Room(pure=("errors",)),
    # What the runner and the control plane both speak of, and neither may import of the other.
    "reload_outcome": Room(pure=("reload_outcome",)),
    "logs": Room(
        pure=("line", "throttle"),
        shells=("writer", "start", "repeats"),
        imports=("errors",),
        third_party=("orjson",),
    ),
    "config": Room(
        pure=("model", "model_form", "validate", "listen", "marks", "shape", "wording"),
        shells=("load", "token", "places"),
        imports=("errors",),
    ),
    "http1": Room(
        pure=(
            *("messages", "router", "auth", "sse", "limits", "intake", "chunks", "parser"),
            *("exchange", "outgoing", "deadlines"),
        ),
        shells=(
            *("connection", "delivery", "pump", "waiter", "watch", "date", "peer", "server"),
            "unix_socket",
        ),
        imports=("errors", "config"),
        third_party=("h11", "orjson"),
    ),
    "engines": Room(
        pure=(
            *("adapter", "memory_demand", "llamacpp", "llamacpp_memory", "command_flags"),
            *("answers", "event_stream", "openai_stream", "openai_errors", "openai_request"),
            *("openai", "command", "vllm", "vllm_flags", "vllm_memory", "vllm_words", "registry"),
            "answer_body",
        ),
        shells=("client",),
        alone={"embedded_llamacpp": ("xllamacpp",)},
        imports=("errors", "config"),
        third_party=("h11", "orjson"),
    ),
    "serving": Room(
        pure=(
            *("task", "queue", "dispatch", "pace", "event_log", "retention", "pool_choice"),
            *("entry", "account", "core", "todo", "world", "progress", "tally"),
        ),
        shells=(
            *("relay", "service", "slot_watch", "stall_watch", "aftermath", "pool", "register"),
            *("refusals", "abandonment"),
        ),
        imports=("engines", "errors", "config"),
        shells_import=("logs",),
        third_party=("orjson",),
    ),
    "runner": Room(
        pure=(
            *("lifecycle", "restart", "output", "environment", "status", "slot_gate"),
            *("exit_status", "incident", "history", "load_progress", "mailbox"),
            *("snapshot", "allowed", "placement", "ledger", "room"),
            *("reload", "reload_status", "model_history", "held_gate"),
            *("footprint", "reckoning", "model_facts", "gguf", "gguf_cursor", "tensor_types"),
            *("remembered", "digest", "hub_model"),
        ),
        shells=(
            *("devices", "nvml", "host_memory", "resources", "returns", "turns"),
            *("ports", "process", "launch", "readiness", "replica", "retry", "supervisor"),
            *("attempt", "listener", "process_tree", "generation", "pool", "reloading", "rise"),
            *("executable", "slow_call", "reckoner", "model_file", "learned", "guard"),
            *("guardian_process", "trust", "hub_folder"),
        ),
        alone={"tether": (), "guardian": (), "sweep": (), "engine_record": (), "remains": ()},
        imports=("engines", "reload_outcome", "errors", "config"),
        third_party=("orjson", "pynvml"),
    ),
    "api": Room(
        pure=("wire", "fields", "task_body", "reload_body", "content"),
        shells=(
            *("routes", "door", "context", "tasks", "pools", "health", "metrics"),
            "refused_logins",
        ),
        imports=("http1", "serving", "reload_outcome", "errors", "config"),
        imports_pure_of=("engines",),
        shells_import=("logs", "metrics"),
        third_party=("orjson",),
    ),
    "metrics": Room(
        pure=("catalog", "exposition", "registry", "collector"),
        shells=("cpu_watch",),
        imports=("errors", "config"),
    ),
    "systemd": Room(
        pure=("message", "standing"), shells=("notifier", "herald"), imports=("config",)
    ),
    "descriptors": Room(shells=("descriptors",), imports=("config",)),
    "daemon": Room(
        shells=("daemon",),
        imports=(
            *("descriptors", "api", "http1", "serving", "runner", "engines", "metrics"),
            *("reload_outcome", "systemd", "errors", "config"),
        ),
        third_party=("uvloop",),
    ),
    # The other composition root: it says what the daemon would do.
    "check": Room(shells=("check",), imports=("runner", "engines", "errors", "config")),
    # Clients of the daemon over HTTP, so they know nothing of the daemon's insides.
    "client": Room(shells=("client",), imports=("logs", "errors", "config")),
    "ask": Room(shells=("ask",), imports=("client", "logs", "errors")),
    "status": Room(
        pure=("standing", "cells", "table"),
        shells=("screen",),
        imports=("logs", "errors"),
        shells_import=("client",),
    ),
    "command_line": Room(shells=("command_line",), imports=("logs",)),
    "cli": Room(
        shells=("cli",),
        imports=(
            *("daemon", "check", "ask", "status", "client", "command_line", "descriptors"),
            *("engines", "logs", "errors", "config"),
        ),
    ),
    "__main__": Room(shells=("__main__",), imports=("cli",)),
}

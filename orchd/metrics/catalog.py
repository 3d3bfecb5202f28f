"""Every series there is, once, as data: its name, type, meaning and labels.

Source: the specification's section 7. Nothing is shown that does not stand here, and a sample names
each label that its series has; ``ci/metrics.lint.json`` says the same to those outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


@dataclass(frozen=True, slots=True)
class Series:
    """One family of samples."""

    name: str
    type: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...]
    """In the order in which a sample gives their values."""


class ModelState(StrEnum):
    """The two states of a model."""

    ACTIVE = "Active"
    RETIRED = "Retired"


NONE = "none"
"""The engine of a task that was refused before its pool was known."""
UNASSIGNED = "unassigned"
"""The replica of a task that had to wait for one."""
UNKNOWN = "unknown"
"""The version of an engine that has not told one yet."""

_POOL = ("engine", "engine_version", "pool_id")
_REPLICA = (*_POOL, "replica_id")
_DEVICE = (*_REPLICA, "device")
_GOES_ON = (
    "It goes on when the replica is started again; a new engine_version takes the count over."
)

QUEUE_DEPTH = Series(
    "queue_depth",
    "gauge",
    "Tasks that wait for a slot now.",
    (*_POOL, "priority"),
)
TASKS_ENQUEUED = Series(
    "tasks_enqueued_total",
    "counter",
    "Tasks admitted, by the replica that took each at once; unassigned had to wait for one."
    f" {_GOES_ON}",
    (*_REPLICA, "priority"),
)
TASKS_REJECTED = Series(
    "tasks_rejected_total",
    "counter",
    "Tasks refused by POST /v1/tasks, by the code of the answer; engine is none where no pool was"
    " known yet. Requests without the token, and those that never were HTTP, are no tasks.",
    ("engine", "reason"),
)
TOKENS_IN = Series(
    "tokens_in_total",
    "counter",
    f"Prompt tokens of the tasks that ended well, by the engine's own count. {_GOES_ON}",
    _REPLICA,
)
TOKENS_OUT = Series(
    "tokens_out_total",
    "counter",
    "Tokens generated, counted when a task ends: the engine's own count, or of a task that failed"
    f" the token events that it had streamed. {_GOES_ON}",
    _REPLICA,
)
GPU_UTILIZATION = Series(
    "gpu_utilization",
    "gauge",
    "Share of the time, 0 to 1, in which the replica's GPU was at work for anyone, as last sampled."
    " On the cpu: the share of all its cores that the replica's processes took of late.",
    _DEVICE,
)
VRAM_USED = Series(
    "vram_used_bytes",
    "gauge",
    "Bytes of the GPU's memory that the replica's own processes hold, as last sampled; where the"
    " driver does not tell that, bytes in use on the whole GPU. On the cpu: resident memory of the"
    " replica's processes.",
    _DEVICE,
)
MODEL_STATE = Series(
    "model_state",
    "gauge",
    "1 for the state of a model: Active while a pool is to serve it, whether it can now or not;"
    " Retired after that.",
    ("model_id", "state"),
)

CATALOG = (
    QUEUE_DEPTH,
    TASKS_ENQUEUED,
    TASKS_REJECTED,
    TOKENS_IN,
    TOKENS_OUT,
    GPU_UTILIZATION,
    VRAM_USED,
    MODEL_STATE,
)
"""In the order in which they are shown."""

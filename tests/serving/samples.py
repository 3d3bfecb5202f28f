"""Tasks and configurations for the serving tests."""

from __future__ import annotations

from itertools import count

from orchd.config.model import PoolConfig, QueueConfig
from orchd.engines.adapter import Generation
from orchd.serving.task import Priority, Task, TaskSpec

_numbers = count()


def make_task(
    priority: Priority = Priority.INTERACTIVE,
    session_id: str | None = None,
    task_id: str | None = None,
    size_bytes: int = 0,
) -> Task:
    """A task that was just admitted, with an id of its own."""
    task_id = task_id or f"task-{next(_numbers)}"
    generation = Generation(prompt="Once")
    return Task(TaskSpec(task_id, "chat", priority, session_id, generation, size_bytes), 0)


def make_pool(
    pool_id: str = "chat",
    model: str = "/models/a.gguf",
    slots: int = 4,
    ctx: int = 512,
    interactive: int = 64,
    batch: int = 256,
) -> PoolConfig:
    """A pool as configured."""
    queue = QueueConfig(interactive=interactive, batch=batch)
    return PoolConfig(id=pool_id, engine="llamacpp", model=model, slots=slots, ctx=ctx, queue=queue)

"""What ended tasks are charged for, against what they take."""

from __future__ import annotations

import asyncio
import tracemalloc
import uuid

import pytest

from orchd.api import wire
from orchd.engines.adapter import Generation
from orchd.errors import Code
from orchd.serving.entry import Entry
from orchd.serving.event_log import EventLog
from orchd.serving.register import Register
from orchd.serving.task import Failed, Priority, Step, Task, TaskSpec


@pytest.mark.parametrize("tokens", [0, 1000])
def test_ended_tasks_take_no_more_memory_than_they_may(tokens: int) -> None:
    """Also where they have hardly said anything: a flood of cancelled tasks is kept, too."""

    budget_bytes = 1024 * 1024

    async def retire_many() -> int:
        register = Register(1000.0, asyncio.get_running_loop(), budget_bytes)
        before_bytes, _ = tracemalloc.get_traced_memory()
        count = 0
        while len(register.entries()) == count:
            _retire(register, tokens)
            count += 1
        after_bytes, _ = tracemalloc.get_traced_memory()
        register.close()
        return after_bytes - before_bytes

    tracemalloc.start()
    try:
        taken_bytes = asyncio.run(retire_many())
    finally:
        tracemalloc.stop()
    assert budget_bytes / 2 < taken_bytes < budget_bytes * 1.2


def _retire(register: Register, tokens: int) -> None:
    spec = TaskSpec(str(uuid.uuid4()), "p", Priority.BATCH, None, Generation("a"))
    entry = Entry(Task(spec, 0), EventLog(wire.encode_event), lambda: "waiting")
    register.add(entry)
    entry.task.step(Step.GRANT)
    entry.log_start()
    for _ in range(tokens):
        entry.log_text(" word")
    entry.log_end(Failed(Code.CANCELLED, "cancelled by the client", "llamacpp"))
    register.retire(entry)

"""What the log tells of refused tasks, however many there are."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest

from orchd.errors import Code
from orchd.logs.throttle import SPAN_S
from orchd.serving.refusals import Refusals
from tests.fakes.loop import FakeLoop


def test_pools_and_codes_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    loop = FakeLoop()
    refusals = Refusals(cast(asyncio.AbstractEventLoop, loop))
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            refusals.note("chat", Code.ADMISSION_REJECT)
        refusals.note("chat", Code.POOL_UNAVAILABLE)
        refusals.note("code", Code.ADMISSION_REJECT)
        refusals.note("code", Code.ADMISSION_REJECT)
        assert len(caplog.messages) == 3
        loop.pass_time(SPAN_S)
        refusals.note("chat", Code.ADMISSION_REJECT)
        refusals.close()
    assert caplog.messages == [
        "refused a task pool=chat code=ADMISSION_REJECT",
        "refused a task pool=chat code=POOL_UNAVAILABLE",
        "refused a task pool=code code=ADMISSION_REJECT",
        "refused 2 tasks in the last 10 s pool=chat code=ADMISSION_REJECT",
        "refused a task pool=code code=ADMISSION_REJECT",
        "refused a task pool=chat code=ADMISSION_REJECT",
    ]
    assert loop.pending == []

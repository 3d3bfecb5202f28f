"""A reload of one pool on the fake engine: forth, and back from wherever it fails."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from orchd.reload_outcome import Reloaded, ReloadFailed, Strategy
from orchd.runner.lifecycle import State
from tests.conftest import Drive
from tests.fakes.engines import write_model
from tests.runner.stage import staged, until


def test_smoke(drive: Drive[None], tmp_path: Path) -> None:
    async def scenario() -> None:
        async with staged(tmp_path) as stage:
            await stage.reach(State.READY)
            (tmp_path / "other").mkdir()
            other = str(write_model(tmp_path / "other"))
            outcome = await stage.supervisor.reload("chat", other)
            print(outcome)
            assert isinstance(outcome, Reloaded)
            assert stage.serving == [other]
            outcome = await stage.supervisor.reload("chat", "/nowhere.gguf")
            print(outcome)
            assert isinstance(outcome, ReloadFailed)

    drive(scenario())

"""Sees what a replica that has loaded took of its GPU."""

from __future__ import annotations

import asyncio

from orchd.errors import EngineError
from orchd.runner.devices import DeviceMonitor
from orchd.runner.ledger import Holding, Rise, measure_rise


async def see_rise(monitor: DeviceMonitor, holding: Holding, patience_s: float) -> Rise:
    """Wait for a reading of its GPU. Raises EngineError where there is none for so long."""
    try:
        async with asyncio.timeout(patience_s):
            while True:
                gpu = (await monitor.fresh()).find(holding.device)
                if gpu is not None:
                    return measure_rise(holding, gpu)
                await monitor.next()
    except TimeoutError as error:
        snapshot = monitor.snapshot
        lost = snapshot.find_quarantined(holding.device)
        why = snapshot.reason or (lost.reason if lost is not None else "it is gone")
        problem = f"loaded, but its memory on {holding.device} cannot be seen: {why}"
        raise EngineError(problem) from error

"""THE table: every endpoint there is. Start reading here.

Beyond these there is nothing, by the specification: no drain, no artifact registry, no tenants.
"""

from __future__ import annotations

from collections.abc import Callable

from orchd.api import health, metrics, pools, tasks
from orchd.api.context import Context
from orchd.http1.messages import Reply, Request
from orchd.http1.router import Body, Route

Endpoint = Callable[[Context, Request], Reply]

ROUTES: tuple[Route[Endpoint], ...] = (
    Route("POST", "/v1/tasks", tasks.submit, Body.NEEDED),
    Route("GET", "/v1/tasks/{task_id}/stream", tasks.stream),
    Route("POST", "/v1/tasks/{task_id}/cancel", tasks.cancel),
    Route("POST", "/v1/pools/{pool_id}/reload", pools.reload, Body.OPTIONAL),
    Route("GET", "/health", health.show),
    Route("GET", "/metrics", metrics.show),
)

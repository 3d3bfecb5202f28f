"""When a replica that failed is tried again: 1 s, doubling to 60 s, afresh after 60 s of health."""

from __future__ import annotations

from dataclasses import dataclass, replace

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 60.0
HEALTHY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often in a row a replica has failed, as a value."""

    failures: int = 0
    first_delay_s: float = FIRST_DELAY_S
    longest_delay_s: float = LONGEST_DELAY_S
    healthy_after_s: float = HEALTHY_AFTER_S

    def after_failure(self, ready_for_s: float) -> RestartPolicy:
        """The policy after one more failure of a replica that had been ready for so long."""
        was_healthy = ready_for_s >= self.healthy_after_s
        return replace(self, failures=1 if was_healthy else self.failures + 1)

    @property
    def delay_s(self) -> float:
        """How long to wait before the next try."""
        doublings = min(max(self.failures - 1, 0), 10)
        return min(self.first_delay_s * (1 << doublings), self.longest_delay_s)


@dataclass(frozen=True, slots=True)
class Timing:
    """How patient the runner is with its engines."""

    restart: RestartPolicy = RestartPolicy()
    stop_grace_s: float = 10.0
    """From SIGTERM to SIGKILL."""
    kill_timeout_s: float = 10.0
    """From SIGKILL to the verdict that it cannot be killed."""

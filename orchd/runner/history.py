"""What has come of a replica's tries so far: what its next one and its users have to know."""

from __future__ import annotations

from dataclasses import replace

from orchd.runner.incident import Incident
from orchd.runner.restart import RestartPolicy


class History:
    """One replica's; time comes in as an argument."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._starts = 0
        self._ready_since_s = 0.0
        self._ready_for_s = 0.0
        self._tasks: tuple[str, ...] = ()
        self._failure = ""
        self.verdict = ""
        """Why its process is being ended; empty where that was asked for."""

    @property
    def restarts(self) -> int:
        return max(self._starts - 1, 0)

    @property
    def failure(self) -> str:
        """Why it is being ended, or why it was; empty where it has been ready since."""
        return self.verdict or self._failure

    @property
    def delay_s(self) -> float:
        """How long the wait is that followed from the last failure."""
        return self._policy.delay_s

    def forget_failure(self) -> None:
        """It is begun with anew, or is not wanted: what was has no bearing on what comes."""
        self._failure = ""

    def fail(self, reason: str) -> None:
        """No process could be started."""
        self._failure = reason

    def begin(self) -> None:
        """A process runs."""
        self._starts += 1
        self._ready_for_s, self._tasks = 0.0, ()

    def become_ready(self, now_s: float) -> None:
        self._failure = ""
        self._ready_since_s = now_s

    def cease(self, tasks: tuple[str, ...], now_s: float) -> None:
        """It is ready no more; these tasks it had."""
        self._ready_for_s, self._tasks = now_s - self._ready_since_s, tasks

    def condemn(self, verdict: str) -> None:
        """Its process is to be ended, for that reason."""
        self.verdict = verdict

    def end(self, death: Incident | None) -> Incident | None:
        """Its process is gone; gives the death back whole, or None where that was asked for."""
        self.verdict = ""
        self._failure = "" if death is None else death.cause
        return death and replace(death, ready_s=self._ready_for_s, tasks=self._tasks)

    def plan_retry(self) -> float:
        """How long to wait before the next try, after one more failure."""
        self._policy = self._policy.after_failure(self._ready_for_s)
        self._ready_for_s = 0.0
        return self.delay_s

"""How a process ended, as the kernel tells its parent (wait(2))."""

from __future__ import annotations

from dataclasses import dataclass
from signal import Signals


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """Exactly one of the two is set."""

    code: int | None
    signal: str | None
    """By its name; by its number where it has none."""

    @classmethod
    def of(cls, returncode: int) -> ExitStatus:
        """``returncode`` is as ``subprocess`` has it: a signal is negative."""
        if returncode >= 0:
            return cls(returncode, None)
        try:
            return cls(None, Signals(-returncode).name)
        except ValueError:
            return cls(None, f"signal {-returncode}")

    def __str__(self) -> str:
        if self.signal is None:
            return f"exited with code {self.code}"
        return f"was ended by {self.signal}"

    @property
    def is_from_outside(self) -> bool:
        """SIGKILL: whatever it said before, it cannot have said why."""
        return self.signal == "SIGKILL"

    @property
    def is_of_a_stop(self) -> bool:
        """True where it may well be we who ended it."""
        return self.signal in ("SIGTERM", "SIGKILL")

"""A task's numbered event log: what the engine writes and every reader reads at its own pace.

Each event is encoded once, when it is appended, by the encoder that the log was given. Readers
have cursors into it, so replay, many readers and ``Last-Event-ID`` are the same thing.

Invariant: the log is ``started? token* (end|error)``; anything else is a bug (AssertionError).
"""

from __future__ import annotations

from collections.abc import Callable

from orchd.serving.task import Ended, Failed, Started, TaskEvent, Token

FRAME_COST_BYTES = 43
"""What a frame takes beside its bytes: the object's head, rounded up, and its place in the list."""
_TERMINAL = (Ended, Failed)

Encoder = Callable[[int, TaskEvent], bytes]
"""Makes the frame that goes over the wire of an event's number and the event."""


class EventLog:
    """Append-only until its terminal event."""

    def __init__(self, encode: Encoder) -> None:
        self._encode = encode
        self._frames: list[bytes] = []
        self.cost_bytes = 0
        """How much memory the frames take."""
        self.has_started = False
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, event: TaskEvent) -> None:
        """Log the next event."""
        assert not self.is_closed, f"{event} after the terminal event"
        match event:
            case Token() | Ended():
                assert self.has_started, f"{event} before the start"
            case Started():
                assert not self._frames, "a second start"
                self.has_started = True
            case Failed():
                pass
        frame = self._encode(len(self._frames), event)
        self._frames.append(frame)
        self.cost_bytes += len(frame) + FRAME_COST_BYTES
        self.is_closed = isinstance(event, _TERMINAL)

    def read(self, cursor: int, limit_bytes: int) -> tuple[bytes, int]:
        """The frames from number ``cursor`` on that are there now, and the cursor behind them.

        At least one frame if there is one, else no more than ``limit_bytes``.
        """
        end, size = cursor, 0
        while end < len(self._frames):
            size += len(self._frames[end])
            if size > limit_bytes and end > cursor:
                break
            end += 1
        return b"".join(self._frames[cursor:end]), end

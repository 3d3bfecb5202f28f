"""The log's grammar, and reading from any cursor with any limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.errors import Code
from orchd.serving.event_log import FRAME_COST_BYTES, EventLog
from orchd.serving.task import Ended, Failed, Started, TaskEvent, Token

STARTED, END = Started(0, 0), Ended(1, 1, 1, "stop")
ERROR, TOKEN = Failed(Code.CANCELLED, "gone", None), Token("a", 0)
LETTERS: dict[TaskEvent, str] = {STARTED: "s", TOKEN: "t", END: "e", ERROR: "x"}


def encode(number: int, event: TaskEvent) -> bytes:
    return b"%d%s;" % (number, LETTERS[event].encode())


def make_log(*events: TaskEvent) -> EventLog:
    log = EventLog(encode)
    for event in events:
        log.append(event)
    return log


@given(st.lists(st.sampled_from([STARTED, TOKEN, END, ERROR]), max_size=6))
def test_only_what_the_grammar_allows_can_be_logged(events: list[TaskEvent]) -> None:
    """``started? token* (end|error)``, and neither a token nor an end without a start."""
    log, word = EventLog(encode), ""
    for event in events:
        is_allowed = (
            (not word if event is STARTED else event is ERROR or word.startswith("s"))
            and "e" not in word
            and "x" not in word
        )
        if is_allowed:
            log.append(event)
            word += LETTERS[event]
        else:
            with pytest.raises(AssertionError):
                log.append(event)
        frames = b"".join(encode(n, e) for n, e in enumerate(_events(word)))
        assert log.read(0, 1000) == (frames, len(word))
        cost_bytes = len(frames) + FRAME_COST_BYTES * len(word)
        assert (len(log), log.cost_bytes) == (len(word), cost_bytes)
        assert log.has_started == ("s" in word)
        assert log.is_closed == word.endswith(("e", "x"))


def _events(word: str) -> list[TaskEvent]:
    return [next(e for e, letter in LETTERS.items() if letter == one) for one in word]


def test_a_task_may_fail_before_it_starts() -> None:
    assert make_log(ERROR).is_closed


@pytest.mark.parametrize("limit_bytes", range(1, 20))
@pytest.mark.parametrize("start", range(5))
def test_reading_in_pieces_gives_each_frame_once(start: int, limit_bytes: int) -> None:
    log = make_log(STARTED, TOKEN, TOKEN, END)
    whole, cursor, read = b"0s;1t;2t;3e;", start, b""
    while cursor < len(log):
        frames, behind = log.read(cursor, limit_bytes)
        assert behind > cursor
        assert len(frames) <= max(limit_bytes, 3), "no more than the limit, but for one frame"
        cursor, read = behind, read + frames
    assert read == whole[3 * start :]
    assert log.read(cursor, limit_bytes) == (b"", cursor)


def test_a_reader_that_waits_gets_what_comes_after() -> None:
    log = make_log(STARTED)
    _, cursor = log.read(0, 100)
    assert log.read(cursor, 100) == (b"", 1)
    log.append(TOKEN)
    log.append(END)
    assert log.read(cursor, 100) == (b"1t;2e;", 3)

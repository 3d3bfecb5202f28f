"""What a client saw of its task, and whether that may be."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from soaking.pools import BY_ID
from soaking.tasks import Seen, Task, list_faults, list_place_faults

MODELS = ["/models/pair-a.gguf", "/models/pair-b.gguf"]
ERROR = {"code": "WORKER_RESET", "message": "it broke", "engine": "llamacpp"}
END = {"tokens_in": 5, "tokens_out": 2, "decode_ms": 1, "finish_reason": "length"}


def write_story(tokens: int, last: str, **more: Any) -> list[Seen]:
    names = ["started", *["token"] * tokens, last]
    data: list[dict[str, Any]] = [{"queue_position": 0}]
    data += [{"t": f"pair-a:t{n} ", "i": n} for n in range(tokens)]
    data.append((END if last == "end" else ERROR) | more)
    told = zip(names, data, strict=True)
    return [Seen(str(n), name, json.dumps(one)) for n, (name, one) in enumerate(told)]


GOOD = write_story(2, "end")
TASK = Task(7, BY_ID["pair"], "interactive", 2, "reads", looks=[GOOD], story=GOOD)
ALONE = [Seen("0", "error", json.dumps(ERROR))]


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        replace(TASK, looks=[GOOD[:2], GOOD]),
        replace(TASK, looks=[], story=write_story(1, "error")),
        replace(TASK, looks=[], story=ALONE),
        replace(
            TASK, looks=[], story=write_story(0, "error", code="CANCELLED"), has_cancelled=True
        ),
        replace(TASK, looks=[], story=write_story(1, "error", code="CANCELLED"), habit="hangs up"),
        replace(
            TASK, looks=[], story=write_story(0, "error", code="INVALID_PARAMS"), wish="[refuse]"
        ),
        replace(TASK, looks=[], story=write_story(1, "end"), wish="[spoil huge] [after 1]"),
        replace(TASK, looks=[], story=write_story(0, "error", code="DECODE_TIMEOUT")),
        replace(TASK, looks=[], story=write_story(0, "error", code="POOL_UNAVAILABLE")),
        replace(
            TASK, looks=[], story=write_story(0, "error", code="CANCELLED"), habit="never reads"
        ),
        # A real model ends when it likes, and says what it likes.
        replace(TASK, looks=[], story=write_story(1, "end"), pool=BY_ID["real"]),
    ],
)
def test_what_may_be(task: Task) -> None:
    assert list(list_faults(task, MODELS)) == []


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        (replace(TASK, story=[]), "no end"),
        (replace(TASK, story=GOOD[:-1]), "no end"),
        (replace(TASK, looks=[], story=[GOOD[-1]._replace(id="0")]), "its log is"),
        (replace(TASK, story=[*GOOD, GOOD[-1]]), "its log is"),
        (replace(TASK, story=[GOOD[0], *GOOD]), "its log is"),
        (replace(TASK, story=GOOD[1:]), "its log is"),
        (replace(TASK, story=[*GOOD[:2], *GOOD[3:]]), "the ids are"),
        (replace(TASK, story=[*GOOD[:2], GOOD[1]._replace(id="2"), *GOOD[3:]]), "the indexes are"),
        (replace(TASK, looks=[GOOD, GOOD[1:]]), "one reader saw"),
        (replace(TASK, looks=[[*GOOD, GOOD[-1]]]), "one reader saw"),
        (replace(TASK, looks=[], story=write_story(1, "end")), "of 2 tokens 1 came"),
        (replace(TASK, looks=[], story=write_story(2, "end", tokens_out=3)), "3 were counted"),
        (replace(TASK, looks=[], story=write_story(1, "end", tokens_out=1)), "of 2 tokens 1 came"),
        (replace(TASK, looks=[], story=write_story(0, "error", code="CANCELLED")), "cancelled"),
        (
            replace(
                TASK,
                looks=[],
                story=write_story(0, "error", code="CANCELLED"),
                priority="batch",
                habit="never reads",
            ),
            "cancelled",
        ),
        (replace(TASK, looks=[], story=write_story(0, "error", code="INVALID_PARAMS")), "blamed"),
        (
            replace(
                TASK,
                looks=[],
                story=write_story(0, "error", code="INVALID_PARAMS"),
                wish="[crash 0]",
            ),
            "blamed",
        ),
        (replace(TASK, looks=[], story=write_story(0, "error", code="INTERNAL")), "INTERNAL"),
        (replace(TASK, pool=BY_ID["foreign"]), "its text is"),
    ],
)
def test_what_must_not_be(task: Task, fault: str) -> None:
    assert any(fault in told for told in list_faults(task, MODELS))


def test_two_models_never_serve_one_task() -> None:
    data = json.dumps({"t": "pair-b:t1 ", "i": 1})
    story = [*GOOD[:2], GOOD[2]._replace(data=data), GOOD[3]]
    (fault,) = list_faults(replace(TASK, looks=[], story=story), MODELS)
    assert fault.startswith("its text is 'pair-a:t0 pair-b:t1 '")


@pytest.mark.parametrize(
    ("priority", "place", "is_right"),
    [
        # Five may wait, and one slot's task may have been put back.
        ("interactive", 4, True),
        ("interactive", 5, False),
        ("batch", 4 + 5 + 1, True),
        ("batch", 4 + 5 + 1 + 1, False),
    ],
)
def test_nobody_is_admitted_behind_more_than_the_bound(
    priority: str, place: int, is_right: bool
) -> None:
    ordered = replace(TASK, pool=BY_ID["ordered"], priority=priority)
    assert (list_place_faults(ordered, place) == []) is is_right

"""Whose fault an error is, and what is no figure."""

from __future__ import annotations

from typing import Any

import pytest

from orchd.engines.adapter import Refused
from orchd.engines.answers import (
    ServerError,
    count,
    judge,
    judge_answer,
    judge_in_stream,
    parse_event,
    parse_json,
)
from orchd.errors import EngineError


@pytest.mark.parametrize("status", [400, 404, 405, 413, 422, 499])
def test_a_4xx_is_the_tasks_fault(status: int) -> None:
    assert judge(status, "no") == Refused("no")


@pytest.mark.parametrize("status", [408, 425, 429])
def test_not_now_is_nobodys(status: int) -> None:
    assert judge(status, "no") == Refused("no", is_busy=True)


@pytest.mark.parametrize("status", [0, 200, 302, 399, 424, 500, 503, 999])
def test_all_others_are_the_engines(status: int) -> None:
    assert judge(status, "no") is None


@pytest.mark.parametrize("status", [401, 403])
def test_who_takes_no_key_of_ours_is_not_ours(status: int) -> None:
    with pytest.raises(EngineError, match="it is not the engine we started"):
        judge(status, "no")


def test_its_words_are_cut_wherever_they_come_from() -> None:
    words = "x" * 5000
    assert judge(400, words) == Refused("x" * 1000)
    with pytest.raises(EngineError, match=r"^answered HTTP 500: x{1000}$"):
        judge_answer(500, words)
    with pytest.raises(EngineError, match=r"^gave up: x{1000}$"):
        judge_in_stream(ServerError(500, words))


@pytest.mark.parametrize("words", ["\ud83d oh", "oh \udd99", "\ud83e\udd99"])
def test_half_a_character_in_its_words_is_no_text(words: str) -> None:
    """A log, /health or an event that should hold it could not be written."""
    refused = judge(400, words)
    assert refused is not None and "?" in refused.message
    refused.message.encode()
    for status in (500, None):
        with pytest.raises(EngineError) as caught:
            judge_in_stream(ServerError(status, words))
        str(caught.value).encode()
    assert judge(400, "\N{LLAMA}") == Refused("\N{LLAMA}")


def test_an_error_of_no_status_is_the_engines() -> None:
    with pytest.raises(EngineError, match=r"^gave up: no$"):
        judge_in_stream(ServerError(None, "no"))


@pytest.mark.parametrize(
    ("said", "figure"),
    [
        ({"a": {"b": 7}}, 7),
        ({"a": {"b": 7.5}}, 8),
        ({"a": {"b": 0}}, 0),
        ({"a": {"b": -1}}, None),
        ({"a": {"b": True}}, None),
        ({"a": {"b": "7"}}, None),
        ({"a": {"b": float("inf")}}, None),
        ({"a": {"b": float("nan")}}, None),
        ({"a": {"b": 2**53}}, 2**53),
        ({"a": {"b": 2**53 + 1}}, None),
        ({"a": [7]}, None),
        ({}, None),
        (None, None),
        ([], None),
    ],
)
def test_a_figure_or_none(said: Any, figure: int | None) -> None:
    assert count(said, "a", "b") == figure


def test_json_with_half_a_character_is_for_events_alone() -> None:
    assert parse_event(rb'["\ud83e", "\udd99"]') == ["\ud83e", "\udd99"]
    assert parse_event(b"[1]") == [1]
    assert len(parse_event(b'["%s"]' % (rb"\ud83e" * 10_000))[0]) == 10_000
    with pytest.raises(EngineError, match="not JSON"):
        parse_event(b'["%s"]' % (rb"\ud83e" * 12_000))
    for body in (rb'["\ud83e"]', b"{", b"", b"\xff"):
        with pytest.raises(EngineError, match="not JSON"):
            parse_json(body)

"""One event as text, for the journal and as JSON; what comes from outside stays in its place."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.logs.line import Event, Field, read_fields, write_journal, write_json, write_text

STAMP = "2026-01-02T03:04:05.678+01:00"
HOSTILE = "ok\nERROR orchd: forged\r\x1b[2J\x9b31m\x7f\x00\u2028\u202e\ttail"
TRACE = f"Traceback (most recent call last):\n  File x\nValueError: {HOSTILE}\n"
TEXT = st.text(st.characters(blacklist_categories=()), max_size=60)


def event(message: str = "became ready", level: str = "INFO", trace: str = "") -> Event:
    return Event(level, "orchd.runner", message, {"pool": "chat"}, trace)


def test_text_has_a_stamp_a_level_and_a_name() -> None:
    assert write_text(event(), STAMP) == b"%s INFO orchd.runner: became ready\n" % STAMP.encode()


@pytest.mark.parametrize(
    ("level", "priority"),
    [("CRITICAL", 2), ("ERROR", 3), ("WARNING", 4), ("INFO", 6), ("DEBUG", 7), ("Level 15", 6)],
)
def test_the_journal_gets_a_priority_and_no_time(level: str, priority: int) -> None:
    line = write_journal(event(level=level))
    assert line == b"<%d>orchd.runner: became ready\n" % priority


def test_json_has_the_fields_behind_what_each_event_has() -> None:
    told = write_json(Event("WARNING", "a", "b", {"pool": "chat", "rate": 1.5, "n": None}), STAMP)
    assert told == (
        b'{"time":"%s","level":"warning","logger":"a","message":"b",'
        b'"pool":"chat","rate":1.5,"n":null}\n' % STAMP.encode()
    )


def test_a_field_does_not_stand_in_for_what_each_event_has() -> None:
    fields: dict[str, Field] = {"time": "never", "level": "error", "logger": "x", "message": "x"}
    told = json.loads(write_json(Event("INFO", "a", "b", fields), STAMP))
    assert told == {"time": STAMP, "level": "info", "logger": "a", "message": "b"}


def test_each_line_of_a_traceback_is_marked() -> None:
    lines = write_journal(event("failed", "ERROR", "Traceback:\n  File x\n\nValueError: y\n"))
    assert lines.decode().splitlines() == [
        "<3>orchd.runner: failed",
        "<3>| Traceback:",
        "<3>|   File x",
        "<3>| ValueError: y",
    ]
    assert write_text(event("failed", trace="a\nb\n"), STAMP).endswith(b": failed\n| a\n| b\n")


def test_a_traceback_is_one_field_of_json() -> None:
    told = json.loads(write_json(event(trace=TRACE), STAMP))
    assert told["traceback"] == TRACE


def test_what_steers_a_terminal_is_shown_as_what_it_is() -> None:
    line = write_text(event(HOSTILE), STAMP).decode()
    assert line.endswith(
        "runner: ok\\nERROR orchd: forged\\r\\x1b[2J\\x9b31m\\x7f\\x00\\u2028\\u202e\\ttail\n"
    )


def test_a_lone_surrogate_does_no_harm() -> None:
    assert write_text(event("a\udcff"), STAMP).endswith(b": a\\udcff\n")
    assert json.loads(write_json(event("a\udcff"), STAMP))["message"] == "a\\udcff"


@given(TEXT, TEXT)
def test_no_text_forges_a_line(message: str, trace: str) -> None:
    told = Event("ERROR", "orchd", message, {"pool": message}, trace)
    text, journal, line = write_text(told, STAMP), write_journal(told), write_json(told, STAMP)
    for written in (text, journal, line):
        assert written.endswith(b"\n")
        assert not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202e]", written.decode())
    first, *rest = text.decode().split("\n")[:-1]
    assert first.startswith(f"{STAMP} ERROR orchd: ")
    assert all(line.startswith("| ") for line in rest)
    first, *rest = journal.decode().split("\n")[:-1]
    assert first.startswith("<3>orchd: ")
    assert all(line.startswith("<3>| ") for line in rest)
    assert line.count(b"\n") == 1
    shown = message.encode("utf-8", "backslashreplace").decode()
    assert json.loads(line)["message"] == json.loads(line)["pool"] == shown


# -- fields ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "arguments", "fields"),
    [
        ("stopped", (), {}),
        ("pool=%s is no template", (), {}),
        ("started pool=%s pid=%d: %s", ("chat", 42, "x=1 task=2"), {"pool": "chat", "pid": 42}),
        ("%d%% of %s replica=%s", (5, "b", "chat-0"), {"replica": "chat-0"}),
        ("%*d %.*f pool=%s", (5, 1, 2, 0.5, "chat"), {"pool": "chat"}),
        ("in %g s pool=%-8s", (1.5, "chat"), {"pool": "chat"}),
        ("ttft_s=%s rate=%s", (0.25, "-"), {"ttft_s": 0.25, "rate": None}),
        ("n=%s is=%s big=%s odd=%s", (None, True, 2**63, ["x"]), {"n": None, "is": True}),
        ("a=%s b=%s", ("only one",), {"a": "only one", "b": None}),
    ],
)
def test_fields_are_what_the_template_has_keys_for(
    template: str, arguments: tuple[object, ...], fields: dict[str, object]
) -> None:
    found = read_fields(template, arguments)
    if "big" in template:
        assert (found.pop("big"), found.pop("odd")) == (str(2**63), "['x']")
    assert found == fields


@given(TEXT)
def test_no_argument_forges_a_field(text: str) -> None:
    assert read_fields("failed pool=%s: %s", ("chat", f"task=1 {text}")) == {"pool": "chat"}


def test_an_arabic_letter_mark_turns_nothing() -> None:
    assert write_journal(event("a\u061cb")).endswith(b": a\\u061cb\n")
    assert b"\\u061c" in write_json(event("a\u061cb"), STAMP)

"""What a soak tells at its end."""

from __future__ import annotations

import json

from soaking.book import Book, Invariant
from soaking.report import list_lines, to_json
from soaking.rest import Reading

READINGS = [Reading(60.0 * n, 40.0 + n, 50, 6, 12, 1.5) for n in range(3)]


def write_book() -> Book:
    book = Book()
    book.fault("engine gets SIGKILL", "pair pid=7")
    book.fault("engine gets SIGKILL", "pair pid=8")
    book.tasks["end"] = 3
    book.refused["429 ADMISSION_REJECT"] = 2
    book.reloads["RELOAD_FAILED"] = 4
    book.check(Invariant.OWNED, True, "never told")
    return book


def test_what_is_kept_is_told_with_its_counts() -> None:
    lines = list(list_lines(42, 60, write_book(), READINGS))
    assert lines[0].startswith("seed 42, 60 s of faults")
    assert "       2  engine gets SIGKILL" in lines and "faults: 2" in lines
    assert "refused: 2" in lines and "reloads: 4" in lines
    assert not any("BROKEN" in line or "never told" in line for line in lines)
    assert sum(line.startswith("kept") for line in lines) == len(Invariant)


def test_a_breach_is_told_with_the_steps_that_led_there() -> None:
    book = write_book()
    book.check(Invariant.OWNED, False, "a port is left")
    book.step("too late to have led there")
    text = "\n".join(list_lines(42, 60, book, READINGS))
    assert "pair pid=8" in text and "a port is left" in text and "too late" not in text
    assert f"BROKEN        2 looks  {Invariant.OWNED.value}" in text
    assert book.is_broken.is_set()


def test_programs_get_the_same() -> None:
    book = write_book()
    book.breach(Invariant.LOOP, "it stood for 1 s")
    told = json.loads(json.dumps(to_json(42, 60, book, READINGS)))
    assert (told["seed"], told["tasks"], told["faults"]) == (
        42,
        {"end": 3},
        {"engine gets SIGKILL": 2},
    )
    assert {name: one["kept"] for name, one in told["verdicts"].items()} == {
        one.name.lower(): one is not Invariant.LOOP for one in Invariant
    }
    assert told["refused"] == {"429 ADMISSION_REJECT": 2}
    assert told["reloads"] == {"RELOAD_FAILED": 4}
    assert told["verdicts"]["owned"]["checks"] == 1 and told["took_s"] >= 0
    assert told["verdicts"]["order"]["checks"] == 0
    (breach,) = told["breaches"]
    assert (breach["invariant"], breach["text"]) == ("loop", "it stood for 1 s")
    assert [step.partition("  ")[2].strip() for step in breach["steps"]][-1].endswith("pair pid=8")
    assert [reading["rss_mib"] for reading in told["readings"]] == [40, 41, 42]

"""What a soak has come to, for people and as one JSON object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

from soaking.book import Book, Invariant
from soaking.plot import Series, draw_text
from soaking.rest import Reading

UNITS = {
    "rss_mib": "MiB",
    "files": "files",
    "threads": "threads",
    "processes": "processes",
    "latency_ms": "ms",
}


def list_series(readings: Sequence[Reading]) -> list[Series]:
    """A plot for each figure that is read at the rests."""
    return [
        Series(name, unit, tuple((reading.at_s, getattr(reading, name)) for reading in readings))
        for name, unit in UNITS.items()
    ]


def to_json(
    seed: int, seconds: float, book: Book, readings: Sequence[Reading]
) -> dict[str, object]:
    assert [field.name for field in fields(Reading)][1:] == list(UNITS)
    return {
        "seed": seed,
        "seconds": seconds,
        "took_s": round(book.so_far_s, 1),
        "verdicts": {
            one.name.lower(): {
                "invariant": one.value,
                "kept": all(breach.invariant is not one for breach in book.breaches),
                "checks": book.checks[one],
            }
            for one in Invariant
        },
        "tasks": dict(book.tasks),
        "refused": dict(book.refused),
        "reloads": dict(book.reloads),
        "faults": dict(sorted(book.faults.items())),
        "readings": [asdict(reading) for reading in readings],
        "breaches": [
            {
                "at_s": round(breach.at_s, 2),
                "invariant": breach.invariant.name.lower(),
                "text": breach.text,
                "steps": [str(step) for step in breach.steps],
            }
            for breach in book.breaches
        ],
    }


def list_lines(seed: int, seconds: float, book: Book, readings: Sequence[Reading]) -> Iterator[str]:
    yield f"seed {seed}, {seconds:.0f} s of faults, {book.so_far_s:.0f} s in all"
    yield from _list_counts("tasks", book.tasks)
    yield from _list_counts("refused", book.refused)
    yield from _list_counts("reloads", book.reloads)
    yield from _list_counts("faults", book.faults)
    for series in list_series(readings):
        yield ""
        yield f"{series.name}, at the rests"
        yield from draw_text(series)
    yield ""
    for one in Invariant:
        is_kept = all(breach.invariant is not one for breach in book.breaches)
        verdict = "kept" if is_kept else "BROKEN"
        yield f"{verdict:<7} {book.checks[one]:>7} looks  {one.value}"
    for breach in book.breaches[:1]:
        yield ""
        yield "The steps that led there:"
        yield from (f"  {step}" for step in breach.steps)
    for breach in book.breaches:
        yield f"BROKEN after {breach.at_s:.2f} s: {breach.invariant.value}"
        yield f"  {breach.text}"


def _list_counts(name: str, counts: Counter[str]) -> Iterator[str]:
    yield f"{name}: {counts.total()}"
    yield from (f"  {count:>6}  {kind}" for kind, count in sorted(counts.items()))

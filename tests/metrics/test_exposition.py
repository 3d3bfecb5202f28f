"""What is written is what a foreign parser reads back, whatever a label holds."""

from __future__ import annotations

import math
import shutil
import subprocess

import pytest
from exposition_text import read_exposition
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from orchd.metrics.catalog import Series
from orchd.metrics.exposition import Family, Sample, write_exposition

GAUGE = Series("depth", "gauge", "How deep.", ("pool", "who"))
COUNTER = Series("seen_total", "counter", 'With \\ and "quotes"\nand a second line.', ("who",))

hostile = st.text(
    st.sampled_from('\\"\n\r\t\0 {},=#a1\u2028\u20ac\U0001f600\ud800') | st.characters(),
    max_size=12,
)
numbers = st.floats() | st.integers(-(2**53), 2**53)


def readable(text: str) -> str:
    """What can be read back of it: what the format cannot carry is replaced."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def test_the_page_as_it_stands() -> None:
    families = [
        Family(GAUGE, (Sample(("a", 'x"\\\n'), 3), Sample(("b", ""), 0.25))),
        Family(COUNTER, ()),
    ]
    assert write_exposition(families).decode() == (
        "# HELP depth How deep.\n"
        "# TYPE depth gauge\n"
        'depth{pool="a",who="x\\"\\\\\\n"} 3\n'
        'depth{pool="b",who=""} 0.25\n'
        '# HELP seen_total With \\\\ and "quotes"\\nand a second line.\n'
        "# TYPE seen_total counter\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (2**60, "1152921504606846976"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (5e-324, "5e-324"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    page = write_exposition([Family(COUNTER, (Sample(("a",), value),))]).decode()
    assert page.endswith(f'seen_total{{who="a"}} {text}\n')


@given(st.dictionaries(st.tuples(hostile, hostile), numbers, max_size=8))
@example({("a\\", 'n"'): 1, ("a", "\\n"): 2, ("a\n", ""): 3, ("}", ',b="'): 4})
def test_a_foreign_parser_reads_back_every_value(values: dict[tuple[str, str], float]) -> None:
    samples = tuple(Sample(labels, value) for labels, value in values.items())
    counter = Family(COUNTER, (Sample(("a",), 1),))
    page = write_exposition([Family(GAUGE, samples), counter])
    depth, seen = text_string_to_metric_families(page.decode())
    assert (depth.name, depth.type, depth.documentation) == ("depth", "gauge", GAUGE.help)
    assert (seen.type, seen.documentation) == ("counter", COUNTER.help)
    read = [((s.labels["pool"], s.labels["who"]), float(s.value)) for s in depth.samples]
    expected = [(tuple(map(readable, labels)), float(value)) for labels, value in values.items()]
    assert repr(read) == repr(expected), "as text, since NaN is not itself"


@given(st.dictionaries(st.tuples(hostile, hostile), numbers, max_size=8))
def test_our_own_reader_reads_the_same(values: dict[tuple[str, str], float]) -> None:
    samples = {tuple(map(readable, labels)): value for labels, value in values.items()}
    family = Family(GAUGE, tuple(Sample((a, b), value) for (a, b), value in samples.items()))
    found = read_exposition(write_exposition([family]))
    assert found.faults == []
    read = [(tuple(dict(s.labels).values()), s.value) for s in found.families["depth"].samples]
    assert repr(read) == repr([(labels, float(value)) for labels, value in samples.items()])


def test_prometheus_itself_reads_it() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool on PATH")
    odd = ['\\"', "\n", "\r", "\0", "{}", "a,b=", "\u2028", "\ud800", "\U0001f600", "#", "\\n", ""]
    samples = tuple(Sample((text, str(n)), n / 3) for n, text in enumerate(odd))
    page = write_exposition([Family(GAUGE, samples), Family(COUNTER, (Sample(("a",), 1),))])
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

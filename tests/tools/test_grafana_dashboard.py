"""The dashboard asks for what there is: each query's series and labels stand in the catalogue."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchd.metrics.catalog import CATALOG

DASHBOARD = Path(__file__).resolve().parents[2] / "tools/grafana-dashboard.json"
LABELS = {series.name: set(series.labels) for series in CATALOG}

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_SELECTOR = re.compile(r"\b([a-z_]+)\s*(?:\{([^}]*)\})?(?=[\[\s)]|$)")
_WORDS = {"sum", "max", "by", "rate", "label_values"}
"""What of PromQL and Grafana the dashboard uses beside series and labels."""


def faults_of(query: str) -> Iterator[str]:
    """What a query asks for that is not there."""
    bare = _STRING.sub('""', query).replace("[$__rate_interval]", "[1m]")
    grouped = re.findall(r"\bby\s*\(([^)]*)\)", bare)
    if match := re.fullmatch(r"label_values\((\w+), (\w+)\)", bare):
        bare, grouped = match[1], [match[2]]
    rest = re.sub(r"\bby\s*\([^)]*\)", " ", bare)
    selectors = [found for found in _SELECTOR.findall(rest) if found[0] not in _WORDS]
    if not selectors:
        yield f"no series in {query}"
    for name, matchers in selectors:
        asked = {part.split("=")[0].strip(" !~") for part in matchers.split(",") if part.strip()}
        asked |= {label.strip() for labels in grouped for label in labels.split(",")}
        if name not in LABELS:
            yield f"no series {name}"
        elif missing := asked - LABELS[name]:
            yield f"{name} has no label {missing}"


def queries_of(value: Any) -> Iterator[tuple[str, str]]:
    """Every query of the dashboard, wherever it stands, with its legend."""
    match value:
        case {"expr": str(query), **rest}:
            yield query, str(rest.get("legendFormat", ""))
        case {"query": str(query), "type": "query"}:
            yield query, ""
        case dict():
            for part in value.values():
                yield from queries_of(part)
        case list():
            for part in value:
                yield from queries_of(part)


def load() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text()))


def test_every_query_asks_for_what_there_is() -> None:
    queries = list(queries_of(load()))
    assert len(queries) >= 8
    for query, legend in queries:
        assert list(faults_of(query)) == [], query
        grouped = {
            label.strip()
            for labels in re.findall(r"\bby\s*\(([^)]*)\)", query)
            for label in labels.split(",")
        }
        shown = set(re.findall(r"\{\{(\w+)\}\}", legend))
        assert shown <= (grouped or {"model_id"}), f"{legend} shows what {query} sums away"


def test_every_series_is_shown() -> None:
    text = " ".join(query for query, _ in queries_of(load()))
    for name in LABELS:
        assert name in text, f"nobody sees {name}"


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("sum by (pool_id) (queue_deep)", "no series queue_deep"),
        ("rate(tokens_total[1m])", "no series tokens_total"),
        ("sum by (tenant) (queue_depth)", "queue_depth has no label {'tenant'}"),
        ('queue_depth{replica_id="a"}', "queue_depth has no label {'replica_id'}"),
        ('queue_depth{pool_id=~"a", user!="b"} > 0', "queue_depth has no label {'user'}"),
        ("label_values(queue_depth, host)", "queue_depth has no label {'host'}"),
        ("1 + 1", "no series in 1 + 1"),
    ],
)
def test_a_query_for_what_is_not_there_is_found(query: str, fault: str) -> None:
    assert list(faults_of(query)) == [fault]


def test_panels_do_not_lie_upon_each_other_and_are_named() -> None:
    taken: set[tuple[int, int]] = set()
    panels = load()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["title"] and panel["description"]
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
